"""A network's trunk in, the same function out as another engine computes it: the same to four digits.

eager      PyTorch as it is: ready at once
compile    torch.compile with frozen weights: minutes to warm up; needs a C++ compiler
openvino   Intel's runtime, on CPUs: seconds to warm up, once for all shapes (pip install 'attnvis[openvino]')
auto       the one that is done first with a run's photos, timed on the first of them: backbone/pace.py
"""

import copy
import logging
import shutil
import threading
import warnings
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attnvis.backbone.agreement import Agreement, Run, compare_with_float32
from attnvis.backbone.cutting import TRACING, SequentialTrunk, channels_last_memory, without_stderr
from attnvis.backbone.device import take_own_stream, to_device
from attnvis.backbone.pace import PaceBook, Workload, choose, counted, lanes, run_once, situation
from attnvis.types import UnavailableError

__all__ = ["ENGINES", "Engine", "OpenVino", "compare_with_float32", "compiled", "folded", "start"]

ENGINES = ("auto", "eager", "compile", "openvino")
NO_OPENVINO = "openvino is not installed; pip install 'attnvis[openvino]', or take engine=eager"
ENOUGH = 32  # photos from which on comparing another precision is paid back


class Engine:
    """What runs a trunk: eager PyTorch, until `prepare` or the first pass starts what the setting names.

    trunk    images [B, 3, H, W] -> maps [B, D, h, w], layer by layer, in float32; it stays as it is
    setting  one of ENGINES; auto: eager, unless `prepare` finds one that is done sooner
    faster   a precision that `prepare` takes where photos agree; None: `dtype` whatever they do
    eager    the same function, ready to run in `dtype` on `device`; None: a copy of the trunk, folded

    Raises ValueError for an unknown engine.
    """

    def __init__(
        self,
        trunk: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        setting: str = "auto",
        faster: torch.dtype | None = None,
        eager: nn.Module | None = None,
    ) -> None:
        if setting not in ENGINES:
            raise ValueError(f"unknown engine {setting!r}: {', '.join(ENGINES)}")
        self.trunk, self.device, self.dtype = trunk, device, dtype
        self.setting, self.faster = setting, faster
        self.eager = on_device(folded(trunk), device, dtype) if eager is None else eager
        self.name = "eager" if setting == "auto" else setting  # what runs
        self.reason = ""  # why it does, and how well it agrees with eager float32
        self.workers = 1  # threads that call it at a time
        # what runs: images in `dtype`, channels last in memory
        self.forward: Run = self.eager if self.name == "eager" else self.begin
        self.starting = threading.RLock()  # once, however many threads ask

    def run(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """What the trunk gives of every layer, in float32: maps [B, D, h, w].

        Raises ValueError where the engine cannot run here.
        """
        take_own_stream(self.device)
        images = to_device(images, self.device, self.dtype)
        return tuple(maps.float() for maps in self.forward(images))

    def begin(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """The first pass of an engine that has not been started."""
        with self.starting:
            if self.forward == self.begin:
                self.forward = self.started(self.name, self.dtype)
        return self.forward(images)

    def prepare(self, work: Workload, book: PaceBook | None = None) -> None:
        """Choose and start the engine for this work; on its images it is compared with eager float32.

        `book` has what was timed here before, and gets what is timed now.  Raises ValueError where the
        engine that the setting names cannot run here.
        """
        with self.starting:
            self.workers = work.workers
            self.name = "eager" if self.setting == "auto" else self.setting
            self.forward, precision = self.in_best_precision(work)
            fastest = self.take_fastest(work, book or PaceBook()) if self.setting == "auto" else ""
            self.reason = "; ".join(filter(None, [fastest, precision]))

    def go_on(self, begun: str, dtype: torch.dtype | None = None, workers: int = 1) -> str:
        """Run as the run did that goes on now: `begun` is what it said of its engine, `dtype` its precision.

        Nothing is timed or compared, and the engine starts with the first photo.  Gives what is to be said
        where the one that auto took is not to be had any more: eager does the rest.  Raises ValueError where
        the one that the setting names cannot run here.
        """
        name, _, reason = begun.partition(" (")
        remark = ""
        with self.starting:
            self.workers = workers
            if dtype is not None and dtype == self.faster:
                self.take_precision(dtype)
            if self.setting == "auto" and not can_run(name, self.device):
                remark = f"this was begun with engine {name}, which cannot run here: eager does the rest"
                name, reason = "eager", f"begun with {name}, which cannot run here"
            require(name, self.device)
            self.name, self.reason = name, reason.removesuffix(")")
            self.forward = self.eager if name == "eager" else self.begin
        return remark

    def in_best_precision(self, work: Workload) -> tuple[Run, str]:
        """What runs in the precision that the photos allow, and what is to be said of it."""
        reasons = []
        if self.faster is not None and work.images is not None and work.photos >= ENOUGH:
            forward = self.started(self.name, self.faster)
            agreement = self.compare(forward, self.faster, work)
            if agreement.is_close:
                self.take_precision(self.faster, eager=forward if self.name == "eager" else None)
                return forward, f"precision auto: bf16, {agreement}"
            reasons.append(f"precision auto: fp32, since in bf16 {agreement}")
        elif self.faster is not None:
            reasons.append(f"precision auto: fp32, comparing bf16 does not pay for {counted(work.photos)}")
        forward = self.started(self.name, self.dtype)
        if work.images is not None and (self.name, self.dtype) != ("eager", torch.float32):
            reasons.append(str(self.compare(forward, self.dtype, work)))
        return forward, "; ".join(reasons)

    def take_precision(self, dtype: torch.dtype, eager: Any = None) -> None:
        """Everything from now on in this precision; `eager`: the trunk in it, where that is at hand."""
        self.eager = on_device(self.eager, self.device, dtype) if eager is None else eager
        self.dtype, self.faster = dtype, None

    def take_fastest(self, work: Workload, book: PaceBook) -> str:
        """In place of eager the engine that is done first with the photos, if it agrees; and why."""
        if self.device.type != "cpu":
            return "auto: a GPU, which decoding keeps busy"
        if work.images is None:
            return "auto: there is no photo at hand to time others on"
        if work.photos < ENOUGH:
            return f"auto: timing others does not pay for {counted(work.photos)}"
        others = {
            name: partial(self.started, name, self.dtype)
            for name in ("openvino", "compile")
            if can_run(name, self.device)
        }
        about = situation(work, self.device, self.dtype)
        images = to_device(work.images, self.device, self.dtype)
        choice = choose(self.eager, others, replace(work, images=images), book=book, about=about)
        if choice.name == "eager":
            return f"auto: {choice.reason}"
        forward = choice.forward or self.started(choice.name, self.dtype)
        agreement = self.compare(forward, self.dtype, work)
        if not agreement.agrees:
            return f"auto: eager, since {choice.name} does not agree: {agreement}; {choice.reason}"
        self.forward, self.name = forward, choice.name
        return f"auto: {choice.reason}; {agreement}"

    def started(self, name: str, dtype: torch.dtype) -> Any:
        """What runs the trunk in this precision.  Raises ValueError where the engine cannot."""
        if name == "openvino" and getattr(self.trunk, "gives_maps", False):
            raise ValueError(  # they are counted in Python, which a trace holds fixed
                "engine openvino takes no network of patches, whose number it would hold fixed; "
                "take engine=eager or compile"
            )
        if (name, dtype) == ("eager", self.dtype):
            return self.eager
        return start(name, folded(self.trunk), dtype, self.device, self.workers)

    def compare(self, forward: Run, dtype: torch.dtype, work: Workload) -> Agreement:
        """How this engine's attention agrees with eager float32's on the images at hand."""
        assert work.images is not None
        exact = folded(self.trunk).to(self.device)
        images = work.images.to(self.device)
        with lanes(self.workers) as submit:  # what compiles does so for the threads that will call it

            def run(images: Tensor) -> tuple[Tensor, ...]:
                return submit(run_once, forward, images).result()

            return compare_with_float32(run, exact, images, dtype, head=work.head)

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def can_run(name: str, device: torch.device) -> bool:
    try:
        require(name, device)
    except ValueError:
        return False
    return True


def require(name: str, device: torch.device) -> None:
    """Raises ValueError for an engine that is unknown, or cannot run here."""
    match name:
        case "eager":
            return
        case "compile":
            if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
                raise ValueError(
                    "engine compile needs a C++ compiler, and there is none; "
                    "install g++, or take engine=openvino or eager"
                )
        case "openvino":
            if device.type != "cpu":
                raise ValueError(
                    f"engine openvino runs on the CPU, and the device is {device}; "
                    "take engine=eager or compile"
                )
            if not find_spec("openvino"):
                raise UnavailableError(NO_OPENVINO)
        case _:
            raise ValueError(f"unknown engine {name!r}: {', '.join(ENGINES)}")


def start(engine: str, trunk: nn.Module, dtype: torch.dtype, device: torch.device, workers: int) -> Run:
    """A trunk as `engine` runs it: images [B, 3, H, W] in, maps [B, D, h, w] out, layer by layer.

    trunk: in float32, it is taken over; workers: threads that will call it at a time, each with one core, or
    one with all of them.  Raises ValueError for an engine that is unknown, or cannot run here.
    """
    require(engine, device)
    if engine == "openvino":
        return OpenVino(trunk, dtype, workers)
    trunk = on_device(trunk, device, dtype)
    return compiled(trunk) if engine == "compile" else trunk


def on_device(trunk: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The trunk itself, moved to where it runs, its weights laid out as convolutions like them."""
    return channels_last_memory(trunk.to(device, dtype))


def compiled(trunk: nn.Module) -> Run:
    """A trunk as torch.compile makes it: minutes to warm up, once for batches and once for single photos.

    Sizes are symbols in it: compiled anew for every shape, a mixed folder would take minutes for each.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # no CUDA is no news
    run = torch.compile(trunk, dynamic=True, options={"freezing": True})

    def without_gradient(images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():  # freezing wants to know that nothing is trained
            return tuple(run(images))

    return without_gradient


class OpenVino:
    """A trunk as OpenVINO compiles it, for batches and photos of any size; each thread has its request."""

    def __init__(self, trunk: nn.Module, dtype: torch.dtype, workers: int) -> None:
        try:
            import openvino
            from openvino.frontend import FrontEndManager
            from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
        except ImportError:
            raise UnavailableError(NO_OPENVINO) from None
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # what PyTorch thinks of its own tracer
            # Not openvino.convert_model, which reports to its makers.
            decoder = TorchScriptPythonDecoder(
                trunk.float().cpu(), example_input=(torch.zeros(2, 3, 224, 288),)
            )
            frontend = FrontEndManager().load_by_framework("pytorch")
            model = frontend.convert(frontend.load(decoder))
        model.reshape([-1, 3, -1, -1])
        hints = {
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": workers if workers > 1 else torch.get_num_threads(),
            "NUM_STREAMS": workers,
        }
        self.model = openvino.Core().compile_model(model, "CPU", hints)
        self.count = len(model.outputs)
        self.requests = threading.local()  # one a thread

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        if not hasattr(self.requests, "request"):
            self.requests.request = self.model.create_infer_request()
        arrays = self.requests.request.infer([images.float().contiguous().numpy()], share_inputs=True)
        return tuple(torch.from_numpy(arrays[number].copy()) for number in range(self.count))


@torch.no_grad()  # not inference_mode: what is made in it can do nothing else
def folded(trunk: nn.Module) -> nn.Module:
    """A copy with batch norm multiplied into the convolutions before it.

    A network that cannot be traced again, or would then say something else, is copied as it is.
    """
    try:
        if isinstance(trunk, SequentialTrunk):
            fused: nn.Module = copy.deepcopy(trunk).eval()  # a copy of a traced network thinks that it trains
            if fold_rows(fused) and agree(fused, trunk):
                return fused
        from torch.fx.experimental.optimization import fuse

        with TRACING, without_stderr():
            fused = fuse(copy.deepcopy(trunk).eval(), inplace=True)
            if agree(fused, trunk):
                return fused
    except Exception:  # a network's own code raises what it likes at a tracer, and at noise
        pass
    return copy.deepcopy(trunk).eval()


def agree(fused: nn.Module, trunk: nn.Module) -> bool:
    """Whether two trunks say the same of noise.  Raises what a network raises."""
    images = torch.randn(1, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    images = images.to(next(trunk.parameters()))
    return all(
        torch.allclose(maps, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
        for maps, exact in zip(fused(images), trunk(images), strict=True)
    )


def fold_rows(net: nn.Module) -> bool:
    """Folds batch norm where it follows its convolution in an nn.Sequential; whether none is left elsewhere.

    What tracing finds too, in a tenth of the time.
    """
    for row in list(net.modules()):
        if isinstance(row, nn.Sequential):
            for number, (layer, norm) in enumerate(pairwise(row)):
                if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    row[number], row[number + 1] = fuse_conv_bn_eval(layer, norm), nn.Identity()
    return not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
