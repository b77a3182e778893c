"""Training, sampling and evaluating image models with the operators of `theory` and the samplers and losses of `sim`.

    from pathlib import Path
    import imagegen
    config = imagegen.Config(data="digits", condition="cep-g", strength=1.0)
    imagegen.train(config, Path("runs/mine"))                                  # goes on where it stopped
    run = imagegen.load_run(Path("runs/mine"))
    images = imagegen.generate(run.denoiser, run.statistics.shape, labels, key, imagegen.SamplerConfig(guidance=0.5))

Float32, with bfloat16 products where asked for. `python -m imagegen` is the command line.
"""

from imagegen.annotate import AnnotateConfig, annotate_source, run_annotate
from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.loading import batches
from imagegen.data.source import ArraySource, Source
from imagegen.evaluate import evaluate_samples
from imagegen.features import Features, train_features
from imagegen.hosts import HostLost, Launch, start_hosts
from imagegen.model import Model, ModelDenoiser
from imagegen.networks.registry import NETWORKS, forward_flops, make_network, parameter_count
from imagegen.presets import PRESETS
from imagegen.run import Run, load_run
from imagegen.sampling import SamplerConfig, generate, walk
from imagegen.sweep import run_sweep
from imagegen.training import Stopped, train
from imagegen.weights import export_run

__all__ = [
    "NETWORKS",
    "PRESETS",
    "AnnotateConfig",
    "ArraySource",
    "Config",
    "Features",
    "HostLost",
    "Launch",
    "Model",
    "ModelDenoiser",
    "Run",
    "SamplerConfig",
    "Source",
    "Stopped",
    "annotate_source",
    "batches",
    "evaluate_samples",
    "export_run",
    "forward_flops",
    "generate",
    "load_run",
    "make_network",
    "make_source",
    "parameter_count",
    "run_annotate",
    "run_sweep",
    "start_hosts",
    "train",
    "train_features",
    "walk",
]
