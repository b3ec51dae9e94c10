"""Download Pascal VOC 2007 (9963 labelled photographs, 20 classes, 0.9 GB): python tools/download_voc07.py

Run it again to resume a broken download. Existing files are neither downloaded again nor changed.
Everingham et al. 2010, The Pascal Visual Object Classes (VOC) Challenge.
"""

import contextlib
import hashlib
import http.client
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from konohana.errors import UserError
from konohana.settings import read, require, run

folder = 'voc2007'  # where archives and pictures go; relative paths start at the project's folder
trainval_url = 'http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtrainval_06-Nov-2007.tar'  # or a mirror
trainval_md5 = 'c52e279531787c972589f7e41ab4ae64'  # of the archive of 5011 pictures to train on
test_url = 'http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar'  # or a mirror
test_md5 = 'b6e924de25625d8de591ea690078ad9f'  # of the archive of 4952 pictures to test on
keep_archives = False  # keep the downloaded archives after unpacking
retries = 5  # reconnections that bring no new data, before giving up
timeout = 30.0  # seconds without data after which a connection counts as broken
progress = True  # show progress bars

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 1 << 18


def md5_of(path):
    """MD5 of a file as hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open('rb') as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def fetch(url, path, md5, settings):
    """Download `url` to `path`, whole and with the right MD5 or not at all; until then it is `<path>.part`.

    Returns:
        True if it was downloaded, False if the right file already existed.

    Raises:
        UserError: no connection, an error of the server, no space, another MD5.
    """
    if path.is_file():
        if md5_of(path) == md5:
            return False
        raise UserError(f'{path}: its MD5 is not {md5}: another file, or a damaged one. Delete it and run this again.')
    part = path.with_name(path.name + '.part')
    fetch_with_retries(url, part, settings)
    found = md5_of(part)
    if found != md5:
        with explained(part):
            part.unlink()
        raise UserError(
            f'{url}: the download has the MD5 {found}, not {md5}: damaged, or another file. It was deleted. Run this '
            'again, or set the URL to a mirror.'
        )
    with explained(path):
        part.replace(path)
    return True


def fetch_with_retries(url, part, settings):
    """Call `fetch_rest` until `url` is complete; give up after `retries` connections without new data."""
    most = fruitless = 0
    while True:
        try:
            return fetch_rest(url, part, settings)
        except (OSError, http.client.HTTPException) as error:
            reason = ' '.join(str(getattr(error, 'reason', error)).split()) or type(error).__name__
            done = part.stat().st_size if part.is_file() else 0
            if isinstance(error, urllib.error.URLError) and not most:
                raise UserError(
                    f'{url}: no connection ({reason}). Check the network, or set the URL to a mirror.'
                ) from None
            fruitless = 0 if done > most else fruitless + 1
            most = max(most, done)
            if fruitless > settings.retries:
                raise UserError(
                    f'{url}: the connection broke after {done / 1e6:.1f} MB ({reason}). Run this again to resume.'
                ) from None
            print(f'The connection broke after {done / 1e6:.1f} MB ({reason}). Connecting again.')
            if fruitless:
                time.sleep(min(2**fruitless, 30))


def fetch_rest(url, part, settings):
    """Download what `part` lacks of `url`, or all of it if the server does not send parts.

    Raises:
        UserError: an error that remains if you try again.
        OSError, http.client.HTTPException: the connection broke.
    """
    done = part.stat().st_size if part.is_file() else 0
    headers = {'User-Agent': 'konohana', **({'Range': f'bytes={done}-'} if done else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=settings.timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and done:
                # The part is as long as the file, which MD5 then checks, or longer: then start over.
                if error.headers.get('Content-Range', '').endswith(f'/{done}'):
                    return
                with explained(part):
                    part.unlink()
                raise ConnectionError('the part was longer than the file') from None
            if error.code >= 500:
                raise ConnectionError(f'the server answers {error.code} {error.reason}') from None
            raise UserError(
                f'{url}: the server answers {error.code} {error.reason}. Check the URL, or set it to a mirror.'
            ) from None
    except ValueError as error:
        raise UserError(f'{url}: not a URL ({error}).') from None
    with response:
        if start_of(response) != done:
            # The server ignored the range: use its answer only if it starts at 0.
            if start_of(response):
                raise UserError(
                    f'{url}: the server sends another part than requested. Delete {part} and run this again.'
                )
            done = 0
        save_response(response, part, done, settings)


def start_of(response):
    """The number of the first byte that a server sends; -1 if it does not say."""
    if response.status != 206:
        return 0
    match = re.match(r'bytes (\d+)-', response.headers.get('Content-Range', ''))  # `bytes 1000-1999/2000`
    return int(match[1]) if match else -1


def save_response(response, part, done, settings):
    """Append the server's answer to the `done` bytes of `part`; with 0 bytes the file is overwritten."""
    from konohana.progress import progress_bar

    length = response.headers.get('Content-Length')
    total = done + int(length) if length else None
    with explained(part):
        free = shutil.disk_usage(part.parent).free
    if total and total - done > free:
        raise UserError(
            f'{part.parent}: the archive has {total / 1e6:.0f} MB, but there is room for {free / 1e6:.0f} MB. Make '
            'room, or set folder.'
        )
    megabytes = max(1, round((total or 0) / 1e6))
    with explained(part):
        file = part.open('ab' if done else 'wb')
    with file, progress_bar(part.stem, megabytes, settings.progress, 'MB') as bar:
        while block := response.read(BLOCK):
            with explained(part):
                file.write(block)
            done += len(block)
            bar.update(min(round(done / 1e6), megabytes))
    if total and done < total:
        raise ConnectionError(f'{total / 1e6:.1f} MB were announced')


@contextlib.contextmanager
def explained(path):
    """Turn an OSError of a file into a UserError, since an OSError otherwise means a broken connection."""
    try:
        yield
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror}). Make room, or set folder.') from None


def unpack(archive, target, progress):
    """Unpack a tar archive into the folder `target`: plain files only, and none outside it.

    Each file is written whole or not at all; existing files stay. Only names and contents are used, no links, owners
    or permissions. (tarfile's filter 'data' does this too, but not every Python 3.10 and 3.11 has it.)

    Raises:
        UserError: not a tar archive or a damaged one; a path that leads out of the folder, a link or a device: then
            nothing is unpacked.
    """
    from konohana.progress import progress_bar

    try:
        with tarfile.open(archive, 'r:') as tar:
            members = tar.getmembers()
            for member in members:
                check_member(archive, member)
            files = [member for member in members if member.isfile()]
            with progress_bar(f'Unpacking {archive.name}', len(files), progress, 'files') as bar:
                for number, member in enumerate(files, start=1):
                    path = target / member.name
                    if not path.exists():
                        part = path.with_name(path.name + '.part')
                        with explained(path):
                            path.parent.mkdir(parents=True, exist_ok=True)
                            with tar.extractfile(member) as source, part.open('wb') as file:
                                shutil.copyfileobj(source, file)
                            part.replace(path)
                    bar.update(number)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f'{archive}: not a tar archive, or a damaged one ({error}). Delete it and run again.') from None


def check_member(archive, member):
    """Raise UserError for a member of a tar archive that is more than a file or folder below the target."""
    name = PurePosixPath(member.name)
    # A backslash or colon is part of a name on Linux, but points to another place on Windows.
    if name.is_absolute() or '..' in name.parts or re.search(r'[\\:\0]', member.name):
        raise UserError(f'{archive}: it holds {member.name!r}, a path that leads out of the folder; nothing unpacked.')
    if not (member.isfile() or member.isdir()) or member.issparse():
        raise UserError(f'{archive}: {member.name!r} in it is a link or a device, not a file; nothing unpacked.')


def is_complete(root, split):
    """Whether the list of a split exists, with every picture and annotation that it names."""
    from konohana.data import voc

    try:
        return all(path.is_file() for pair in voc.find_split(root, split) for path in pair)
    except UserError:
        return False


def training_command(root):
    """The command line that trains on the dataset in `root`, quoted for this system's shell."""
    script = '_train.py' if Path.cwd() == ROOT else str(ROOT / '_train.py')
    data = root.relative_to(ROOT).as_posix() if root.is_relative_to(ROOT) else str(root)
    words = ['python', script, f'konohana_dataset_path={data}', 'train_split=trainval', 'val_split=test']
    return subprocess.list2cmdline(words) if os.name == 'nt' else shlex.join(words)


def main(arguments=None):
    settings = read(globals(), arguments, folder=ROOT)
    require(settings, retries=(0, None), timeout=(0.1, None))
    from konohana.data import voc  # imported here, so that --help answers at once

    target = settings.path(settings.folder)
    root = target / 'VOCdevkit' / 'VOC2007'
    with explained(target):
        target.mkdir(parents=True, exist_ok=True)
    for split in ('trainval', 'test'):
        if not is_complete(root, split):
            url, md5 = getattr(settings, f'{split}_url'), getattr(settings, f'{split}_md5').strip().lower()
            archive = target / f'VOC{split}_06-Nov-2007.tar'
            downloaded = fetch(url, archive, md5, settings)
            unpack(archive, target, settings.progress)
            if not is_complete(root, split):
                voc.find_split(root, split)
                raise UserError(f'{archive}: it lacks pictures or annotations of the split {split!r}.')
            # Keep an archive that the user downloaded.
            if downloaded and not settings.keep_archives:
                with explained(archive):
                    archive.unlink()
        print(f'{split}: {len(voc.find_split(root, split))} pictures in {root}')
    print(f'Train on them:\n{training_command(root)}')


if __name__ == '__main__':
    run(main)
