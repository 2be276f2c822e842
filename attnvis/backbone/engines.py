"""A cut network in, the same function out as another engine computes it: what is asked of it stays the same to four digits.

eager      PyTorch as it is: ready at once
compile    torch.compile with frozen weights: minutes to warm up, anew for every shape; needs a C++ compiler
openvino   Intel's runtime, on CPUs: seconds to warm up, once for all shapes (pip install 'attnvis[openvino]')
"""

import copy
import shutil
import threading
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attnvis.backbone.cutting import TRACING, quietly

__all__ = ["ENGINES", "OpenVino", "choose", "compiled", "start"]

Run = Callable[[Tensor], tuple[Tensor, ...]]  # images [B, 3, H, W] -> maps [B, D, h, w], layer by layer
ENGINES = ("auto", "eager", "compile", "openvino")
MANY = 500  # photos from which on a few seconds of warming up are paid back


def choose(photos: int, device: torch.device) -> tuple[str, str]:
    """The engine that `auto` stands for, and why."""
    if photos < MANY:
        return "eager", f"fewer than {MANY} photos do not pay for warming up another"
    if device.type == "cpu" and find_spec("openvino"):
        return "openvino", f"{photos} photos, and it is installed"
    return (
        "eager",
        "pip install 'attnvis[openvino]' makes many photos faster"
        if device.type == "cpu"
        else "a GPU, which decoding keeps busy",
    )


def start(engine: str, trunk: nn.Module, dtype: torch.dtype, device: torch.device, workers: int) -> Run:
    """trunk: the eager network in float32; workers: threads that will call it at a time, each with one core."""
    match engine:
        case "eager":
            return trunk.to(device, dtype).to(memory_format=torch.channels_last)
        case "compile":
            if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
                raise ValueError(
                    "engine compile needs a C++ compiler, and there is none; install g++, or take engine=openvino or eager"
                )
            return compiled(trunk.to(device, dtype).to(memory_format=torch.channels_last))
        case "openvino":
            if device.type != "cpu":
                raise ValueError(
                    f"engine openvino runs on the CPU, and the device is {device}; take engine=eager or compile"
                )
            return OpenVino(trunk, dtype, workers)
    raise ValueError(f"unknown engine {engine!r}: {', '.join(ENGINES)}")


def compiled(trunk: nn.Module) -> Run:
    """The last batch of a shape is filled up to the size of the others: every new size would be compiled anew, for minutes."""
    run = torch.compile(trunk, dynamic=False, options={"freezing": True})
    largest: dict[tuple[int, int], int] = {}

    def padded(images: Tensor) -> tuple[Tensor, ...]:
        shape, count = (images.shape[2], images.shape[3]), len(images)
        largest[shape] = wanted = max(largest.get(shape, 1), count)
        filled = torch.cat([images, images[:1].expand(wanted - count, -1, -1, -1)]).contiguous(
            memory_format=torch.channels_last
        )
        with torch.no_grad():  # freezing wants to know that nothing is trained
            return tuple(maps[:count] for maps in run(filled))

    return padded


class OpenVino:
    """The network as OpenVINO compiles it for batches and photos of any size.  Each thread has a request of its own."""

    def __init__(self, trunk: nn.Module, dtype: torch.dtype, workers: int) -> None:
        try:
            import openvino
            from openvino.frontend import FrontEndManager
            from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
        except ImportError:
            raise ValueError(
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
        self.own = threading.local()

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        if not hasattr(self.own, "request"):
            self.own.request = self.model.create_infer_request()
        found = self.own.request.infer([images.float().contiguous().numpy()], share_inputs=True)
        return tuple(torch.from_numpy(found[number].copy()) for number in range(self.count))


def folded(encode: nn.Module) -> nn.Module:
    """A copy with batch norm multiplied into the convolutions before it; a network that cannot be traced again is copied as it is."""
    from torch.fx.experimental.optimization import fuse

    images = torch.randn(1, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    made = copied = copy.deepcopy(encode).eval()  # a copy of a traced network thinks that it trains
    try:
        images = images.to(next(encode.parameters()))
        with (
            TRACING,
            torch.no_grad(),
            quietly(),
        ):  # not inference_mode: what is made in it can do nothing else
            made = fuse(copied, inplace=True)
            agree = all(
                torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
                for a, b in zip(made(images), encode(images), strict=True)
            )
    except Exception:
        agree = False
    return made if agree else copy.deepcopy(encode).eval()


@torch.inference_mode()
def agreement(run: Run, exact: nn.Module, images: Tensor, dtype: torch.dtype) -> str:
    """How the attention of the mean query differs from that of eager float32: correlation of the weights, relative error of perplexity.

    Under z-scores: a softmax that all but takes the largest would tell the two best patches' tie, not the engine.  Of all images the worst.
    """
    lanes, tokens = images.to(dtype, memory_format=torch.channels_last), []
    for maps in (run(lanes)[-1], exact(images)[-1]):
        tokens.append(maps.float().flatten(2).mT)
    scores = [(v @ v.mean(1, keepdim=True).mT).squeeze(-1).double() for v in tokens]
    if float((scores[1].std(-1) / scores[1].abs().amax(-1).clamp_min(1e-30)).min()) < 1e-6:
        return "attention is uniform: nothing to compare with eager float32"
    weights = [
        ((s - s.mean(-1, keepdim=True)) / s.std(-1, correction=0, keepdim=True)).softmax(-1) for s in scores
    ]
    correlation = min(float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(*weights, strict=True))
    perplexity = [torch.special.entr(w).sum(-1).exp() for w in weights]
    missed = float((perplexity[0] / perplexity[1] - 1).abs().max())
    return f"attention correlates with that of eager float32 by {correlation:.5f}, perplexity is off by {missed:.1e} ({len(images)} photos)"


def resolve_device(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """What `auto` stands for on this machine."""
    try:
        where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}: auto, cpu or cuda") from None
    if where.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: this machine has no usable GPU; use device=auto or cpu")
    dtypes = {
        "fp32": torch.float32,
        "bf16": torch.bfloat16,
        "auto": torch.bfloat16 if fast_bf16(where) else torch.float32,
    }
    if precision not in dtypes:
        raise ValueError(f"unknown precision {precision!r}: auto, fp32 or bf16")
    return where, dtypes[precision]


def fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 has instructions of its own here; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (
        getattr(torch.cpu, name, bool) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return device.type == "cpu" and any(check() for check in checks)
