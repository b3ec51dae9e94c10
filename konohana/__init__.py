"""konohana finds and names the characters of an animated show.

import konohana
model = konohana.load()  # the shipped weights; or konohana.load('net.pt', device='cpu')
detections = model([image])  # float tensor 3 x H x W, RGB, 0 to 1 -> [{'boxes', 'labels', 'scores'}]
model.class_names[detections[0]['labels'][0] - 1]
model.cast = konohana.read_cast('my_cast')  # name people by a few pictures of each instead, see docs/cast.md
"""

__all__ = ['default_weights', 'load', 'pick_device', 'read_cast']


def __dir__():
    """What completion in a notebook shows: the names in `__all__` too, before they are imported."""
    return sorted({*globals(), *__all__})


def __getattr__(name):
    """The names in `__all__`, imported when first used: `import konohana` alone does not load PyTorch."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    return getattr(import_module(f'konohana.{"own_cast" if name == "read_cast" else "inference"}'), name)
