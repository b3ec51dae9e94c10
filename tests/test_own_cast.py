"""A cast from pictures: who is named, who is unknown, and one line for each thing that is wrong with a folder."""

import numpy as np
import pytest
import torch
from conftest import IMG_HW, load_script, make_weights

import konohana
from konohana import own_cast, spread
from konohana.data.images import save_image
from konohana.data.sample import Sample
from konohana.detectors.base import Detector
from konohana.errors import UserError


class ByColour(Detector):
    """Finds each block of pure colour and has the colour as its embedding: red, green and blue people."""

    looks_again = True
    class_names = ('first', 'second')

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images, targets=None, with_maps=False, pictures=None):
        return self.named([self.people_in(image) for image in images])

    def people_in(self, image):
        boxes, embeddings = [], []
        for channel in range(3):
            rows, columns = torch.nonzero((image[channel] > 0.9) & (image.sum(dim=0) < 1.1), as_tuple=True)
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                embeddings.append(torch.eye(3)[channel])
        n = len(boxes)
        return {
            'boxes': torch.tensor(boxes, dtype=torch.float32).reshape(n, 4),
            'labels': torch.ones(n, dtype=torch.int64),
            'scores': torch.full((n,), 0.8),
            'probabilities': torch.tensor([[0.7, 0.3]]).repeat(n, 1),
            'embeddings': torch.stack(embeddings) if n else torch.zeros(0, 3),
        }


def picture(*people):
    """A grey picture with blocks, each (colour, size)."""
    image = np.full((40, 90, 3), 60, np.uint8)
    for i, (colour, size) in enumerate(people):
        image[2 : 2 + size, 2 + 30 * i : 2 + 30 * i + size] = np.eye(3, dtype=np.uint8)[colour] * 255
    return image


def tensor(*people):
    return torch.from_numpy(picture(*people)).permute(2, 0, 1).float() / 255


@pytest.fixture
def folder(tmp_path):
    """A cast of two: Rot is red, Grün is green."""
    path = tmp_path / 'my cast 花'
    for name, colour in (('Rot', 0), ('Grün', 1)):
        for i in range(2):
            save_image(path / name / f'{i}.png', picture((colour, 20 + i)))
    return path


def names(model, *people):
    (found,) = model([tensor(*people)])
    return [model.class_names[label - 1] for label in found['labels']]


def test_the_nearest_of_the_cast_or_unknown(folder):
    model = ByColour().eval()
    model.cast = konohana.read_cast(folder)
    assert model.class_names == ['Grün', 'Rot', 'unknown']
    (found,) = model([tensor((0, 20), (1, 20), (2, 20))])
    assert sorted(names(model, (0, 20), (1, 20), (2, 20))) == ['Grün', 'Rot', 'unknown']
    assert torch.allclose(found['probabilities'].sum(dim=1), torch.ones(3), atol=1e-5)
    assert (found['scores'].diff() <= 0).all() and found['scores'].max() > 0.8  # surer of the name than before
    assert names(model) == []
    model.cast = None
    assert model.cast is None and model.class_names == ('first', 'second') and names(model, (2, 20)) == ['first']


def test_added_to_the_names_learned(folder):
    (folder / 'Grün').rename(folder / 'second')
    model = ByColour().eval()
    model.cast = konohana.read_cast(folder, adds=True)
    assert model.class_names == ['first', 'second', 'Rot']
    (found,) = model([tensor((2, 20))])
    # Nobody of the cast is like blue, so the names learned stay nearly as they were.
    assert found['labels'].tolist() == [1] and found['probabilities'][0, 0] > 0.6
    assert names(model, (0, 20)) == ['Rot'] and names(model, (1, 20)) == ['second']


def test_threshold_decides_who_is_unknown(folder):
    model = ByColour().eval()
    model.cast = konohana.read_cast(folder, threshold=-0.5)
    assert 'unknown' not in names(model, (2, 20))
    model.cast = konohana.read_cast(folder, threshold=1.0)
    assert model.class_names[-1] == 'unknown' and len(model.class_names) == 3  # set again, not twice


def test_unused_pictures_are_told_and_the_others_taken(folder, capsys):
    save_image(folder / 'Rot' / 'nobody.png', picture())
    save_image(folder / 'Rot' / 'two.png', picture((0, 20), (1, 19)))
    save_image(folder / 'Rot' / 'passer-by.png', picture((0, 24), (1, 8)))  # far smaller than the one that is meant
    (folder / 'Rot' / 'cut.jpg').write_bytes(b'\xff\xd8 not a picture')
    (folder / '.thumbnails').mkdir()
    (folder / 'Rot' / 'notes.txt').write_text('no picture')
    model = ByColour().eval()
    model.cast = konohana.read_cast(folder)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith('Left out: ') for line in lines)
    assert any('cut.jpg' in line for line in lines)
    assert any('nobody.png' in line and 'nobody is found' in line for line in lines)
    assert any('two.png' in line and '2 people' in line for line in lines)
    assert names(model, (0, 20)) == ['Rot']


def test_pictures_where_no_character_is_are_told(folder, capsys):
    for place in ('.', 'Rot/episode 2', 'Rot/.thumbnails'):
        save_image(folder / place / 'Gelb.png', picture((0, 20)))
    (folder / 'Rot' / 'notes').mkdir()
    cast = konohana.read_cast(folder)
    assert list(map(len, cast.pictures.values())) == [2, 2]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f'Left out: {folder}: 1 picture there. Move them into the folders of their characters.',
        f'Left out: {folder / "Rot" / "episode 2"}: 1 picture there. Move them into {folder / "Rot"}.',
    ]


def test_names_that_differ_in_capitals_alone_are_told(folder, capsys):
    model = ByColour().eval()
    (folder / 'Rot').rename(folder / 'Second')
    model.cast = konohana.read_cast(folder)
    assert not capsys.readouterr().out
    model.cast = konohana.read_cast(folder, adds=True)
    line, *more = capsys.readouterr().out.splitlines()
    assert line.startswith('Second and second are two characters') and not more
    save_image(folder / 'GRÜN' / '1.png', picture((1, 20)))
    if len(list(folder.iterdir())) == 3:  # the file system tells them apart
        konohana.read_cast(folder)
        assert capsys.readouterr().out.startswith('GRÜN and Grün are two characters')


def test_many_pictures_are_thinned_out(folder, capsys):
    for i in range(30):
        save_image(folder / 'Rot' / f'more{i}.png', picture((0, 20)))
    cast = konohana.read_cast(folder)
    assert len(cast.pictures['Rot']) == own_cast.MOST_PICTURES and '32 pictures' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (lambda path: None, 'there is no such folder'),
        (lambda path: path.write_text('x'), 'there is no such folder'),
        (lambda path: path.mkdir(), 'no sub-folders'),
        (lambda path: (path / 'Yuzu').mkdir(parents=True), 'no pictures there'),
        (lambda path: (path / 'unknown').mkdir(parents=True), 'everybody else'),
        (lambda path: (path / 'a\nb').mkdir(parents=True), 'control characters'),
        (lambda path: (path / ('a' * 210)).mkdir(parents=True), '210 characters'),
        (lambda path: (path / '\udcff').mkdir(parents=True), 'cannot be the name'),
    ],
)
def test_a_folder_that_is_no_cast_is_one_line(tmp_path, make, said):
    make(tmp_path / 'cast')
    with pytest.raises(UserError) as error:
        konohana.read_cast(tmp_path / 'cast')
    text = str(error.value)
    assert said in text and '\n' not in text and 'cast' in text


def test_nobody_of_a_character_can_be_used(folder):
    save_image(folder / 'Leer' / 'a.png', picture())
    save_image(folder / 'Leer' / 'b.png', picture())
    with pytest.raises(UserError, match=r'Leer: no picture of this character can be used\. .*a\.png.* 1 more cannot'):
        ByColour().eval().cast = konohana.read_cast(folder)


def test_weights_without_a_second_look_are_one_line(folder, tmp_path, run_script):
    make_weights(tmp_path / 'old.pt')
    model = konohana.load(tmp_path / 'old.pt', 'cpu')
    with pytest.raises(UserError, match='no second look'):
        model.cast = konohana.read_cast(folder)
    assert model.cast is None and model.class_names[0] == '柚'
    options = [f'weights={tmp_path / "old.pt"}', f'cast_path={folder}', f'test_out={tmp_path / "out"}']
    done = run_script('_test.py', *options, f'pictures_in={folder / "Rot"}')
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'second_look=True' in done.stderr
    done = run_script('tools/prelabel.py', *options[:2], f'pictures_in={folder / "Rot"}')
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'second_look=True' in done.stderr
    done = run_script('_test.py', *options, f'pictures_in={folder / "Rot"}', 'cast_threshold=2')
    assert done.returncode == 2 and 'cast_threshold' in done.stderr


def test_a_picture_more_or_a_spread_is_another_cast(folder, tmp_path):
    weights = tmp_path / 'net.pt'
    before = konohana.read_cast(folder).identity(weights)
    assert before == konohana.read_cast(folder).identity(weights)
    assert before != konohana.read_cast(folder, adds=True).identity(weights)
    spread.path_of(weights).write_bytes(b'measured')
    assert before != konohana.read_cast(folder).identity(weights)
    spread.path_of(weights).unlink()
    save_image(folder / 'Rot' / 'more.png', picture((0, 21)))
    assert konohana.read_cast(folder).identity(weights) != before


def test_it_is_said_before_anything_is_done(tmp_path, run_script):
    make_weights(tmp_path / 'net.pt', img_hw=list(IMG_HW))
    done = run_script('_test.py', f'weights={tmp_path / "net.pt"}', f'cast_path={tmp_path / "none"}', 'split=val')
    assert done.returncode == 2 and 'no such folder' in done.stderr


def test_make_cast_from_labels(toy_dataset, tmp_path, run_script):
    folder = tmp_path / 'cast'
    options = [f'labels_in={toy_dataset}', f'cast_out={folder}', 'smallest=8', 'n_pictures=2']
    done = run_script('tools/make_cast.py', *options)
    assert done.returncode == 0, done.stderr
    cast = konohana.read_cast(folder)
    assert '其他' not in cast.pictures and 1 <= max(map(len, cast.pictures.values())) <= 2
    assert f'{len(cast.pictures)} characters' in done.stdout
    assert run_script('tools/make_cast.py', *options).returncode == 0  # its own pictures are written again
    mine = next(folder.rglob('*.jpg'))
    save_image(mine, picture((0, 30)))
    refused = run_script('tools/make_cast.py', *options)
    assert refused.returncode == 2 and refused.stderr.count('\n') == 1 and 'overwrite=True' in refused.stderr
    nobody = run_script('tools/make_cast.py', *options[:2], 'smallest=5000')
    assert nobody.returncode == 2 and 'nobody' in nobody.stderr and nobody.stderr.count('\n') == 1


def test_frames_of_one_name_in_several_folders_give_a_picture_each(tmp_path, run_script):
    for episode in ('ep1', 'ep2'):
        save_image(tmp_path / 'show' / 'images' / 'train' / episode / '0001.png', picture((0, 30)))
        labels = tmp_path / 'show' / 'labels' / 'train' / episode / '0001.txt'
        labels.parent.mkdir(parents=True)
        labels.write_text('0 0.2 0.5 0.3 0.7\n1 0.7 0.5 0.3 0.7\n', encoding='utf-8')
    names = "path: .\ntrain: images/train\nnames: ['Rot', 'unsure']\n"  # as prelabel.py calls those whom it cannot name
    (tmp_path / 'show' / 'data.yaml').write_text(names, encoding='utf-8')
    folder = tmp_path / 'cast'
    done = run_script('tools/make_cast.py', f'labels_in={tmp_path / "show"}', f'cast_out={folder}', 'smallest=8')
    assert done.returncode == 0, done.stderr
    assert '2 pictures' in done.stdout and len(list(folder.rglob('*.jpg'))) == 2


@pytest.mark.parametrize('name', ['../evil', 'a/b', '.hidden', 'C:x', 'dot.'])
def test_a_label_that_can_be_no_folder_is_one_line(name, tmp_path):
    tool = load_script('tools/make_cast.py')
    with pytest.raises(UserError, match='no folder can be called that'):
        tool.path_of(tmp_path, name, {'sample': Sample(tmp_path / 'a.jpg'), 'number': 0})


def test_what_the_names_learned_say_counts_a_little():
    """The names learned tell people apart whom the embeddings do not, strangers above all."""
    embeddings, named, strange = np.eye(3)[:2], np.array([[0.9, 0.1]]), np.array([[0.1, 0.9]])
    cast = own_cast.Characters([[(embeddings[:1], named)], [(embeddings[1:], strange)]], shared=[False, True])
    same, stranger = (cast.likeness(embeddings, np.repeat(said, 2, axis=0)) for said in (named, strange))
    assert np.allclose(same[0, 0], 1) and np.allclose(stranger[1, 1], 1)
    assert stranger[0, 0] < 1 - 0.8 * own_cast.STRANGE and same[1, 1] > 1 - own_cast.OPINION
    none_shared = own_cast.Characters([[(embeddings[:1], named)], [(embeddings[1:], strange)]])
    assert none_shared.likeness(embeddings, np.repeat(strange, 2, axis=0))[0, 0] > stranger[0, 0]


def test_a_picture_is_looked_at_mirrored_too():
    seen = []

    class Model(ByColour):
        def detect(self, frames):
            seen.extend(frames)
            return super().detect(frames)

    image = picture((0, 20))
    embeddings, probabilities = own_cast.look_at(Model().eval(), image, 'a.png')
    assert embeddings.shape == (2, 3) and probabilities.shape == (2, 2)
    assert np.array_equal(seen[1], image[:, ::-1]) and np.array_equal(seen[0], image)


def test_a_cast_whose_pictures_differ_more_gets_a_higher_level():
    """What is a stranger's likeness in one show is one's own in another: pictures of one person say which it is."""
    rng, said, levels = np.random.default_rng(0), np.ones((1, 1)), []
    for noise in (0.02, 0.3, 0.6):
        people = [[(e + noise * rng.normal(size=(1, 8)), said) for _ in range(5)] for e in np.eye(8)[:4]]
        cast = own_cast.Characters(people)
        levels.append(cast.level)
        assert cast.likeness(np.eye(8)[:4], np.ones((4, 1))).argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert levels == sorted(levels) and levels[0] < 0 < levels[-1]
    assert own_cast.Characters([own[:1] for own in people]).level == 0  # nothing to compare
    assert own_cast.Characters([people[0][:2], *(own[:1] for own in people[1:])]).level != 0
