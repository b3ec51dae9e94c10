"""An index's detections as a Parquet table, for pandas, Polars and DuckDB: one row for each detection.

Columns: `frame`, `seconds`, `shot`, `x1`, `y1`, `x2`, `y2`, `score`; `track`, `name` and `probability` where it belongs
to a track; and `p <name>` for each name: the detection's own probabilities, all but the highest 0. The table's metadata
hold the rest of the index, so that it is read again without detecting.
"""

import json

import numpy as np

from konohana import files
from konohana.errors import UserError

KEY = b'konohana'


def parquet_module():
    """pyarrow's module for Parquet; UserError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError("index_as='parquet' needs pyarrow: pip install pyarrow") from None
    return pyarrow.parquet


def write(path, header, index, shot_of, track_of):
    """Write a table; see `index.save_index`, which calls this."""
    parquet = parquet_module()
    import pyarrow as pa

    tracks = [index.tracks[k] if k >= 0 else None for k in track_of]
    columns = {
        'frame': pa.array(index.frame, pa.int32()),
        'seconds': pa.array(index.times[index.frame]),
        'shot': pa.array(shot_of, pa.int32()),
        **{key: pa.array(index.box[:, k]) for k, key in enumerate(('x1', 'y1', 'x2', 'y2'))},
        'score': pa.array(index.score),
        'track': pa.array([None if k < 0 else int(k) for k in track_of], pa.int32()),
        'name': pa.array([track and track['name'] for track in tracks], pa.string()),
        'probability': pa.array([track and track['probability'] for track in tracks], pa.float32()),
        **{f'p {name}': pa.array(index.names[:, k]) for k, name in enumerate(index.class_names)},
    }
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(header, ensure_ascii=False)})
    with files.replacing(path, remember=True) as temporary:
        parquet.write_table(table, temporary, compression='zstd')


def read(path):
    """(header, frame, box, score, names) of a table; ValueError where it is damaged."""
    parquet = parquet_module()
    with path.open('rb'):
        pass  # FileNotFoundError, as for other files
    table = parquet.read_table(path)
    header = json.loads((table.schema.metadata or {})[KEY])

    def array(columns, kind):
        found = [table[key].to_numpy().astype(kind) for key in columns]
        return np.stack(found, axis=1) if found else np.zeros((len(table), 0), kind)

    names = array([f'p {name}' for name in header['class_names']], np.float32)
    box = array(('x1', 'y1', 'x2', 'y2'), np.float32)
    return header, array(['frame'], np.int64)[:, 0], box, array(['score'], np.float32)[:, 0], names
