"""Graphs run by OpenVINO or onnxruntime: arrays in, arrays out. Nothing here needs PyTorch."""

import contextlib
import contextvars
import functools
import os
import sys
import threading

from konohana import files
from konohana.errors import UserError, printable
from konohana.onnx import metadata

# A file of a few bytes can ask for any amount of memory. This is what all graphs in onnxruntime together get.
MEMORY_LIMIT = 4 * 2**30
MOST_KEPT = 16  # graphs that OpenVINO has compiled, some megabytes each


FIRST_RUN = 60.0  # seconds that a graph may take for its first picture: one with an endless loop has no end

_half = contextvars.ContextVar('half', default=False)


@contextlib.contextmanager
def half_the_threads():
    """Runtimes opened within this context take half of the threads: decoders and encoders work at the same time."""
    token = _half.set(True)
    try:
        yield
    finally:
        _half.reset(token)


def n_threads():
    """Threads that a runtime takes: PyTorch's number where it is in use, else OMP_NUM_THREADS, else one a core.

    Within `half_the_threads` half of them.
    """
    if 'torch' in sys.modules:
        n = sys.modules['torch'].get_num_threads()
    else:
        n = chosen_threads() or usable_cores()
    return max(1, n // 2) if _half.get() else n


def usable_cores():
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def chosen_threads():
    """OMP_NUM_THREADS of the environment; 0 where it is not set, or is no number."""
    chosen = os.environ.get('OMP_NUM_THREADS', '')
    return int(chosen) if chosen.isdecimal() else 0


class OnnxRuntime:
    """A graph in onnxruntime.

    Args:
        data: its bytes. path: the file, for messages. device: 'cpu', 'cuda', or '' for the fastest of what onnxruntime
            offers; inputs and outputs are on the CPU in any case.

    Attributes:
        metadata: dict of text. limit: seconds that a run may take, None for any.

    Raises:
        UserError: onnxruntime is not installed, there is no such device, or the graph is damaged.
    """

    backend, limit = 'onnxruntime', None

    def __init__(self, data, path, device='cpu'):
        self.path = path
        onnxruntime = metadata.optional('onnxruntime', f'{path}: an ONNX file')
        cuda = 'CUDAExecutionProvider' in onnxruntime.get_available_providers()
        kind = str(device).partition(':')[0]
        if kind not in ('', 'cpu', 'cuda') or (kind == 'cuda' and not cuda):
            raise UserError(
                f"device={device!r}: onnxruntime does not run there. Use 'cpu', or for CUDA the package "
                'onnxruntime-gpu.'
            )
        providers = ['CUDAExecutionProvider'] if cuda and kind != 'cpu' else []
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = n_threads()
        settings.log_severity_level = 4  # nothing: errors come as exceptions
        # Threads that wait busily for the next picture would slow everything in between: video, another detector.
        settings.add_session_config_entry('session.intra_op.allow_spinning', '0')
        _limit_memory()
        settings.add_session_config_entry('session.use_env_allocators', '1')
        try:
            self.session = onnxruntime.InferenceSession(data, settings, providers=[*providers, 'CPUExecutionProvider'])
            self.inputs = [given.name for given in self.session.get_inputs()]
            self.names = [output.name for output in self.session.get_outputs()]
            self.metadata = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:
            # onnxruntime's exceptions have no common class of their own.
            reason = printable(files.reason(error)[:150])
            raise UserError(f'{path}: damaged, or not an ONNX file ({reason}). Export or copy it again.') from None
        self.new_options = onnxruntime.RunOptions

    def run(self, *arrays):
        """The graph's outputs for its inputs: dict of arrays, by name.

        Raises:
            UserError: it cannot be run, or not within `limit` seconds.
        """
        options = self.new_options()
        timer = threading.Timer(self.limit or 0, setattr, (options, 'terminate', True))
        if self.limit:
            timer.start()
        try:
            outputs = self.session.run(None, dict(zip(self.inputs, arrays, strict=True)), options)
        except Exception as error:
            reason = files.reason(error)
            if options.terminate:
                raise UserError(f'{self.path}: it does not come to an end within {self.limit:g} seconds.') from None
            if 'Available memory' in reason:
                reason = f'more memory than {MEMORY_LIMIT / 2**30:g} GiB; a smaller batch_size needs less'
            raise UserError(
                f'{self.path}: onnxruntime cannot run it on {arrays[0].shape} ({printable(reason[-200:])}).'
            ) from None
        finally:
            timer.cancel()
        return dict(zip(self.names, outputs, strict=True))


@functools.cache
def _limit_memory():
    """Make onnxruntime's memory on the CPU one pool of `MEMORY_LIMIT`, for all sessions that ask for it."""
    onnxruntime = metadata.optional('onnxruntime', 'An ONNX file')
    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    pool = onnxruntime.OrtArenaCfg({'max_mem': MEMORY_LIMIT})
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo('Cpu', *kind), pool)


class OpenVino:
    """A graph in OpenVINO, on the CPU; see `OnnxRuntime`.

    Attributes:
        usual: shapes that its input mostly has. Of a known size it is a tenth faster, a small graph twice as fast; one
            that takes any size serves all others.
    """

    backend, limit, usual = 'openvino', None, ()
    options = {}  # noqa: RUF012 (more of OpenVINO's, such as PERF_COUNT)

    def __init__(self, data, path, device='cpu'):
        self.path, self.data, self.requests = path, data, {}
        self.n_threads = n_threads()
        self.openvino = metadata.optional('openvino', "backend='openvino'")
        if str(device) not in ('', 'cpu'):
            raise UserError(f"device={device!r}: backend='openvino' computes on the CPU alone.")
        self.lock = threading.Lock()  # a request is for one thread at a time
        try:
            self.graph = graph = _core(self.openvino).read_model(data)
            self.names = [output.get_any_name() for output in graph.outputs]  # compiled, some have others
            about = graph.get_rt_info()
            about = about['framework'] if 'framework' in about else {}
            self.metadata = {key: value.value for key, value in about.items()}
        except Exception as error:
            raise UserError(
                f'{path}: damaged, or not an ONNX file ({_reason(error)}). Export or copy it again.'
            ) from None
        if any(operation.get_type_name() == 'Loop' for operation in graph.get_ops()):
            raise UserError(f"{path}: it has loops, which onnxruntime alone computes: backend='onnxruntime'.")

    def _request(self, arrays):
        """The request for inputs of these shapes."""
        usual = arrays[0].shape if arrays[0].shape in self.usual else None
        if usual not in self.requests:
            graph = self.graph.clone()
            if usual:
                graph.reshape(list(usual))
            config = {
                'INFERENCE_PRECISION_HINT': 'f32',  # bfloat16 and float16 are slower where there are no AMX units
                'INFERENCE_NUM_THREADS': self.n_threads,
                'PERFORMANCE_HINT': 'LATENCY',
                'ENABLE_CPU_PINNING': False,  # other programs have a right to the cores
                **self.options,
            }
            self.requests[usual] = _compiled(_core(self.openvino), graph, config).create_infer_request()
        return self.requests[usual]

    def run(self, *arrays):
        """See `OnnxRuntime.run`; there are no loops that need a limit."""
        with self.lock:
            try:
                request = self._request(arrays)
                request.infer(list(arrays), share_inputs=True)
            except Exception as error:
                raise UserError(
                    f'{self.path}: OpenVINO cannot run it on {arrays[0].shape} ({_reason(error)}).'
                ) from None
            outputs = zip(self.names, request.model_outputs, strict=True)
            return {name: request.get_tensor(output).data.copy() for name, output in outputs}


def _compiled(core, graph, config):
    """A graph, compiled; OpenVINO keeps what it compiles, and then needs a fifth of the time."""
    folder = files.cache_folder() / 'openvino'
    with contextlib.suppress(Exception):  # no home, no space, no right to write: it is compiled each time
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob('*.blob'), key=lambda blob: blob.stat().st_mtime)[:-MOST_KEPT]:
            old.unlink()
        return core.compile_model(graph, 'CPU', {**config, 'CACHE_DIR': str(folder)})
    return core.compile_model(graph, 'CPU', config)


def _reason(error):
    """An exception's text in one short line."""
    return printable(files.reason(error)[-200:])


@functools.cache
def _core(openvino):
    """OpenVINO's core, one for the process and never let go.

    Its CPU plug-in gives the thread that loads it a stack for signal handlers and frees it with the last core, in
    whatever thread that happens: then the next signal, a Ctrl-C say, ends the process by a segmentation fault.
    """
    return openvino.Core()


@contextlib.contextmanager
def first_run(session):
    """The block runs a graph for the first time, within `FIRST_RUN` seconds, and learns what its metadata are worth.

    Args:
        session: the graph, an `OnnxRuntime` or `OpenVino`.

    Raises:
        UserError: naming the file: one of the block; or whatever comes of a graph that does something else than its
            metadata say, since each runtime has its own exceptions. Packages that are missing go through.
    """
    session.limit = FIRST_RUN
    try:
        yield
    except ModuleNotFoundError:
        raise
    except UserError as error:
        raise error if str(session.path) in str(error) else UserError(f'{session.path}: {error}') from None
    except Exception as error:
        reason = printable(files.reason(error)[:150])
        raise UserError(f'{session.path}: its network does not fit its metadata ({reason}). Export it again.') from None
    session.limit = None


RUNTIMES = {'openvino': OpenVino, 'onnxruntime': OnnxRuntime}  # the fastest first, see docs/speed.md
