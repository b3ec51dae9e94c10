#!/bin/sh
# Show the training curves in a browser: http://localhost:6006. Arguments go to TensorBoard, e.g. --port 6007.
CDPATH= cd -- "$(dirname -- "$0")" || exit 1
python=.venv/bin/python
[ -x "$python" ] || python=python3
if ! "$python" -c 'import tensorboard' >/dev/null 2>&1; then
    echo "TensorBoard is not installed. Install it with: $python -m pip install tensorboard" >&2
    exit 2
fi
exec "$python" -m tensorboard.main --logdir logs "$@"
