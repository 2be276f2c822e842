"""A network's trunk in, the same function out as another engine computes it: the same to four digits.

eager      PyTorch as it is: ready at once
compile    torch.compile with frozen weights: minutes to warm up, anew for every shape; needs a C++ compiler
openvino   Intel's runtime, on CPUs: seconds to warm up, once for all shapes (pip install 'attnvis[openvino]')
"""

import copy
import math
import shutil
import statistics
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnvis.backbone.cutting import TRACING, channels_last_memory, without_stderr
from attnvis.types import Head, UnavailableError

__all__ = [
    "ENGINES",
    "Agreement",
    "Engine",
    "OpenVino",
    "Run",
    "choose",
    "compare_with_float32",
    "compiled",
    "folded",
    "has_fast_bf16",
    "resolve_device",
    "start",
]

Run = Callable[[Tensor], tuple[Tensor, ...]]  # images [B, 3, H, W] -> maps [B, D, h, w], layer by layer
ENGINES = ("auto", "eager", "compile", "openvino")
MANY = 500  # photos from which on a few seconds of warming up are paid back
# Precision auto takes bf16 where it is fast, photos are many, and at least FEWEST of a run's first agree with
# float32 by CLOSE (docs/performance.md, "Engines agree"): a median would hide the few maps that move.
ENOUGH = 32  # photos from which on the comparison is paid back
FEWEST = 4  # photos of one shape among the first
CLOSE = 0.99  # correlation of attention at the 10th percentile of these photos


class Engine:
    """What runs a trunk: eager PyTorch, until `prepare` or the first pass starts what the setting names.

    trunk    images [B, 3, H, W] -> maps [B, D, h, w], layer by layer, in float32; it stays as it is
    setting  one of ENGINES; auto: by the number of photos
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
        self.name, self.reason = "eager", ""  # what runs, and why; how well it agrees with eager float32
        self.forward: Run = self.eager  # what runs: images in `dtype`, channels last in memory
        self.ready = setting in ("auto", "eager")
        self.starting = threading.RLock()  # once, however many threads ask

    def run(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B D h w"], ...]:
        """Maps of every layer, in float32."""
        if not self.ready:
            with self.starting:
                if not self.ready:
                    self.prepare(1, torch.get_num_threads())
        images = images.to(self.device, self.dtype, memory_format=torch.channels_last)
        return tuple(maps.float() for maps in self.forward(images))

    def prepare(
        self,
        photos: int,
        workers: int = 1,
        images: Float[Tensor, "B 3 H W"] | None = None,
        head: Head | None = None,
    ) -> None:
        """Start the engine for so many photos and threads; on `images` it is compared with eager float32.

        `head` is the last layer's: with one, the class that it predicts is compared too.  Raises ValueError
        where that engine cannot run here.
        """
        with self.starting:
            name, reason = choose(photos, self.device) if self.setting == "auto" else (self.setting, "")
            reasons = [f"auto: {reason}"] if reason else []
            forward = None
            if self.faster is not None and images is not None and photos >= ENOUGH:
                forward, reason = self.try_faster(name, workers, images=images, head=head)
                reasons.append(reason)
            elif self.faster is not None:
                reasons.append(
                    f"precision auto: fp32, fewer than {ENOUGH} photos do not pay for comparing bf16"
                )
            if forward is None:
                forward = self.started(name, self.dtype, workers)
                if images is not None and (name, self.dtype) != ("eager", torch.float32):
                    reasons.append(str(self.compare(forward, self.dtype, images=images, head=head)))
            self.forward, self.name, self.reason = forward, name, "; ".join(reasons)
            self.ready = True

    def try_faster(
        self, name: str, workers: int, images: Float[Tensor, "B 3 H W"], head: Head | None
    ) -> tuple[Run | None, str]:
        """What runs in the faster precision, where these photos allow it, and why it does or does not."""
        assert self.faster is not None
        forward = self.started(name, self.faster, workers)
        agreement = self.compare(forward, self.faster, images=images, head=head)
        if not agreement.is_close:
            return None, f"precision auto: fp32, since in bf16 {agreement}"
        self.eager = forward if name == "eager" else on_device(self.eager, self.device, self.faster)
        self.dtype, self.faster = self.faster, None
        return forward, f"precision auto: bf16, {agreement}"

    def started(self, name: str, dtype: torch.dtype, workers: int) -> Any:
        """What runs the trunk in this precision."""
        if (name, dtype) == ("eager", self.dtype):
            return self.eager
        return start(name, folded(self.trunk), dtype, self.device, workers)

    def compare(
        self, forward: Run, dtype: torch.dtype, images: Float[Tensor, "B 3 H W"], head: Head | None
    ) -> "Agreement":
        exact = folded(self.trunk).to(self.device)
        return compare_with_float32(forward, exact, images.to(self.device), dtype, head=head)

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def choose(photos: int, device: torch.device) -> tuple[str, str]:
    """The engine that `auto` stands for, and why."""
    if photos < MANY:
        return "eager", f"fewer than {MANY} photos do not pay for warming up another"
    if device.type == "cpu" and find_spec("openvino"):
        return "openvino", f"{photos} photos, and it is installed"
    if device.type == "cpu":
        return "eager", "pip install 'attnvis[openvino]' makes many photos faster"
    return "eager", "a GPU, which decoding keeps busy"


def start(engine: str, trunk: nn.Module, dtype: torch.dtype, device: torch.device, workers: int) -> Run:
    """A trunk as `engine` runs it: images [B, 3, H, W] in, maps [B, D, h, w] out, layer by layer.

    trunk: in float32, it is taken over; workers: threads that will call it at a time, each with one core.
    Raises ValueError for an engine that is unknown, or cannot run here.
    """
    match engine:
        case "eager":
            return on_device(trunk, device, dtype)
        case "compile":
            if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
                raise ValueError(
                    "engine compile needs a C++ compiler, and there is none; "
                    "install g++, or take engine=openvino or eager"
                )
            return compiled(on_device(trunk, device, dtype))
        case "openvino":
            if device.type != "cpu":
                raise ValueError(
                    f"engine openvino runs on the CPU, and the device is {device}; "
                    "take engine=eager or compile"
                )
            return OpenVino(trunk, dtype, workers)
    raise ValueError(f"unknown engine {engine!r}: {', '.join(ENGINES)}")


def on_device(trunk: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The trunk itself, moved to where it runs, its weights laid out as convolutions like them."""
    return channels_last_memory(trunk.to(device, dtype))


def compiled(trunk: nn.Module) -> Run:
    """A trunk as torch.compile makes it: minutes to warm up, for every shape.

    The last batch of a shape is filled up to the size of the others: every new size would be compiled anew.
    """
    run = torch.compile(trunk, dynamic=False, options={"freezing": True})
    largest: dict[tuple[int, int], int] = {}

    def padded(images: Tensor) -> tuple[Tensor, ...]:
        shape, count = (images.shape[2], images.shape[3]), len(images)
        largest[shape] = max(largest.get(shape, 1), count)
        filling = images[:1].expand(largest[shape] - count, -1, -1, -1)
        filled = torch.cat([images, filling]).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():  # freezing wants to know that nothing is trained
            return tuple(maps[:count] for maps in run(filled))

    return padded


class OpenVino:
    """A trunk as OpenVINO compiles it, for batches and photos of any size; each thread has its request."""

    def __init__(self, trunk: nn.Module, dtype: torch.dtype, workers: int) -> None:
        try:
            import openvino
            from openvino.frontend import FrontEndManager
            from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
        except ImportError:
            raise UnavailableError(
                "openvino is not installed; pip install 'attnvis[openvino]', or take engine=eager"
            ) from None
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # what PyTorch thinks of its own tracer
            # Not openvino.convert_model, which reports to its makers.
            decoder = TorchScriptPythonDecoder(
                trunk.float().cpu(), example_input=(torch.zeros(2, 3, 224, 288),)
            )
            frontend = FrontEndManager().load_by_framework("pytorch")
            model = frontend.convert(frontend.load(decoder))
        model.reshape([-1, 3, -1, -1])
        hints = {"INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32"}
        self.model = openvino.Core().compile_model(
            model, "CPU", {**hints, "INFERENCE_NUM_THREADS": workers, "NUM_STREAMS": workers}
        )
        self.count = len(model.outputs)
        self.requests = threading.local()  # one a thread

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        if not hasattr(self.requests, "request"):
            self.requests.request = self.model.create_infer_request()
        arrays = self.requests.request.infer([images.float().contiguous().numpy()], share_inputs=True)
        return tuple(torch.from_numpy(arrays[number].copy()) for number in range(self.count))


def folded(trunk: nn.Module) -> nn.Module:
    """A copy with batch norm multiplied into the convolutions before it.

    A network that cannot be traced again, or would then say something else, is copied as it is.
    """
    from torch.fx.experimental.optimization import fuse

    images = torch.randn(1, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    fused = copy.deepcopy(trunk).eval()  # a copy of a traced network thinks that it trains
    try:
        images = images.to(next(trunk.parameters()))
        # not inference_mode: what is made in it can do nothing else
        with TRACING, torch.no_grad(), without_stderr():
            fused = fuse(fused, inplace=True)
            agree = all(
                torch.allclose(maps, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))
                for maps, exact in zip(fused(images), trunk(images), strict=True)
            )
    except Exception:  # a network's own code raises what it likes at a tracer
        agree = False
    return fused if agree else copy.deepcopy(trunk).eval()


@dataclass(frozen=True)
class Agreement:
    """How an engine's attention, under z-scores, stands to that of eager float32, photo by photo.

    Of each photo the worse of its questions: mean, and the predicted class where there is a classifier.
    """

    correlations: tuple[float, ...]  # of the weights
    same_hottest: tuple[bool, ...]  # whether the hottest patch is the same under every question
    perplexity_error: float  # the largest, relative

    @property
    def tail(self) -> float:
        """The correlation's 10th percentile over photos; NaN without any."""
        ordered = torch.tensor(self.correlations, dtype=torch.float64)
        return float(ordered.quantile(0.1)) if self.correlations else math.nan

    @property
    def is_close(self) -> bool:
        """Whether these photos allow the engine: a correlation of CLOSE at the 10th percentile, the hottest
        patch the same on all.
        """
        return len(self.correlations) >= FEWEST and self.tail >= CLOSE and all(self.same_hottest)

    def __str__(self) -> str:
        if not self.correlations:
            return "attention is uniform: nothing to compare with eager float32"
        count = len(self.correlations)
        return (
            f"attention correlates with that of eager float32 by {min(self.correlations):.5f} at least, "
            f"{self.tail:.5f} at the 10th percentile, "
            f"{statistics.median(self.correlations):.5f} in the median; "
            f"the hottest patch is the same on {sum(self.same_hottest)} of {count} photos; "
            f"perplexity is off by up to {self.perplexity_error:.1e}"
        )


@torch.inference_mode()
def compare_with_float32(
    run: Run,
    exact: nn.Module,
    images: Float[Tensor, "B 3 H W"],
    dtype: torch.dtype,
    head: Head | None = None,
) -> Agreement:
    """How the attention of the last layer differs from that of eager float32.

    Under z-scores: a softmax that all but takes the largest would show the tie of the two best patches, not
    the engine.  `head` is the last layer's; each side is asked for the class that it predicts itself.
    """
    maps = run(images.to(dtype, memory_format=torch.channels_last))[-1].float()
    exact_maps = exact(images)[-1].float()
    questions: list[Callable[[Tensor], Tensor]] = [mean_query_scores]
    if head is not None:
        questions.append(partial(class_scores, head))
    pairs = [(ask(maps), ask(exact_maps)) for ask in questions]
    correlations, same_hottest, errors = [], [], [0.0]
    for photo in range(len(images)):
        comparisons = [
            compare_weights(zscore_weights(scores[photo]), zscore_weights(exact_scores[photo]))
            for scores, exact_scores in pairs
            if has_contrast(exact_scores[photo])
        ]
        if comparisons:
            correlations.append(min(correlation for correlation, _, _ in comparisons))
            same_hottest.append(all(same for _, same, _ in comparisons))
            errors.append(max(error for _, _, error in comparisons))
    return Agreement(tuple(correlations), tuple(same_hottest), perplexity_error=max(errors))


def compare_weights(weights: Float[Tensor, " N"], exact: Float[Tensor, " N"]) -> tuple[float, bool, float]:
    """Correlation, whether the hottest patch is the same, relative error of the perplexity."""
    correlation = float(torch.corrcoef(torch.stack([weights, exact]))[0, 1])
    error = abs(float(perplexity(weights) / perplexity(exact)) - 1)
    return correlation, bool(weights.argmax() == exact.argmax()), error


def has_contrast(scores: Float[Tensor, " N"]) -> bool:
    return float(scores.std(correction=0)) >= 1e-6 * float(scores.abs().amax().clamp_min(1e-30))


def mean_query_scores(maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B N"]:
    """Dot products of every patch with the mean patch, in float64."""
    tokens = maps.float().flatten(2).mT  # [B, D, h, w] -> [B, N, D]
    return (tokens @ tokens.mean(1, keepdim=True).mT).squeeze(-1).double()


def class_scores(head: Head, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B N"]:
    """Dot products of every patch with the query of the class that the maps predict, in float64."""
    vectors, _ = head.ask(maps, head.logits(maps).argmax(-1))
    return (maps.flatten(2).mT @ vectors.unsqueeze(-1)).squeeze(-1).double()


def zscore_weights(scores: Float[Tensor, "*any N"]) -> Float[Tensor, "*any N"]:
    """Softmax of z-scores."""
    centred = scores - scores.mean(-1, keepdim=True)
    return (centred / scores.std(-1, correction=0, keepdim=True)).softmax(-1)


def perplexity(weights: Float[Tensor, "*any N"]) -> Float[Tensor, "*any"]:
    return torch.special.entr(weights).sum(-1).exp()


def resolve_device(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """What a device and a precision stand for on this machine; precision auto begins as float32.

    Raises ValueError for what is unknown, or not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}: auto, cpu or cuda") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this machine has no usable GPU; use device=auto or cpu")
    dtypes = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in dtypes:
        raise ValueError(f"unknown precision {precision!r}: auto, fp32 or bf16")
    return resolved, dtypes[precision]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 has instructions of its own here; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # missing from some builds of PyTorch
    checks = [getattr(torch.cpu, name, bool) for name in names]
    return device.type == "cpu" and any(check() for check in checks)
