"""benchmarks/scale.py measures one part and draws it."""


def test_a_part_is_measured_and_drawn(run_script, tmp_path):
    kept, picture = tmp_path / 'scale.json', tmp_path / 'scale.png'
    arguments = ('parts=evaluation', 'most=500', f'results_json={kept}', f'picture_out={picture}')
    done = run_script('benchmarks/scale.py', *arguments)
    assert done.returncode == 0, done.stderr
    assert '| evaluation, s | 500 images |' in done.stdout and kept.is_file() and picture.is_file()
    done = run_script('benchmarks/scale.py', 'parts=speed', f'results_json={kept}', f'picture_out={picture}')
    assert done.returncode == 2 and "parts='speed'" in done.stderr
