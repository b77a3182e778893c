"""What the report shows beside the verdicts: a result per section, each with the figure that carries it."""

from collections.abc import Iterator

from tqdm import tqdm

from theory import figures, plots
from theory.canvas import png
from theory.data import load_builtin
from theory.prescribe import Settings, prescribe
from theory.report import Result

CAPTIONS = {
    "lemma_two": "Above: the exact training loss of the optimum printed in Lemma 2 and of the true one. Below: one "
    "standard deviation around what each generates, for $d=2$, $S=I$, $\\|m\\|^2=4$, noise_std $=0.7$.",
    "entropy_gap": "Expected entropy gap over noise_std$^2$ at noise_std $=0.1$, $\\|\\mu\\|^2=1$, exact integral.",
    "gain": "Expected gain in squared 2-Wasserstein distance, with 95 % bands of its Monte Carlo part.",
    "label_flips": "Two classes with means $\\pm\\mu$, $\\|\\mu\\|^2=4$. Above: without guidance, at finite n, "
    "with 95 % "
    "bands. Below: the population, with guidance w.",
    "geodesics": "Above: geodesics between one-dimensional Gaussians are arcs in the half-plane. Below: one standard "
    "deviation around seven Gaussians at equal distances along one geodesic.",
    "path_errors": "KL divergence from generated to data on the Gaussian with the 32 x 32 natural-image "
    "spectrum, uniform "
    "steps in t. Euler on the Bures path is exact; values below $10^{-9}$ are drawn there.",
    "contracted_distance": "Two three-point laws on $[0,1]$ at total variation 0.6, after Gaussian noise.",
    "ideal_classifier": "Two mixtures on the line, clean and blurred.",
}

TEXTS = {
    "lemma_two": (
        "One line of Lemma 2",
        "Perturbing the condition adds the rank-one term $s\\,m m^T$ to the covariance, not $s\\|m\\|^2 I$: variance "
        "grows along the class mean only. In one dimension the two agree, which is why small examples do not show "
        "it.",
    ),
    "entropy_gap": (
        "Entropy grows without a factor d",
        "At a fixed ratio $n/d$ the gap tends to a constant times noise_std$^2$, where Theorem 1 prints growth "
        "like $d$.",
    ),
    "gain": (
        "Slight corruption helps, within limits",
        "The expected gain is concave in $s$: it rises, has one optimum, and here turns negative beyond a limit "
        "(for some "
        "small n every strength helps). At large n optimum and limit scale like $1/\\sqrt{n}$ and the best gain like "
        "$1/n^2$: the effect is real, and small once n is large.",
    ),
    "label_flips": (
        "Flipped labels",
        "In the linear model of two opposite classes flips raise the distance without guidance. With moderate "
        "guidance, "
        "which overshoots, a few flips lower it.",
    ),
    "geodesics": ("Shortest paths between Gaussians", "Geodesics of the Fisher-Rao metric, by Eriksen's exponential."),
    "path_errors": (
        "Which path is best depends on the sampler",
        "On exactly Gaussian data with the ideal denoiser: for DDIM the equal-angle path is best and for Euler "
        "steps of the "
        "probability flow the Bures path is exact; for ancestral sampling with the large variance the shortest "
        "path has "
        "the smallest divergence of those drawn. None is best for all, and real images are not Gaussian.",
    ),
    "contracted_distance": (
        "Noise brings distributions together",
        "The printed bound of Theorem 4.2 holds; $\\mathrm{erf}(D/2\\sqrt{2}\\sigma)$ in the place of "
        "$D/2\\sigma$ makes "
        "it sharp.",
    ),
    "ideal_classifier": (
        "What the ideal classifier marks",
        "Its mean probability of clean on corrupted data is $1/2-\\Delta/4$, not $1/2-d_{TV}$: a threshold on it "
        "allows "
        "far more total variation than the paper reads into it.",
    ),
}


def theory_results() -> Iterator[Result]:
    """The results that need no data, figure by figure, under a progress bar."""
    for name, (title, text) in tqdm(TEXTS.items(), desc="figures", unit="figure", leave=False):
        yield Result(title, text, [(CAPTIONS[name], png(getattr(figures, name)()))])


def prescription_result(name: str) -> Result:
    """What to do for a bundled data set, in words and figures."""
    advice = prescribe(load_builtin(name), Settings())
    drawn = [(key.replace("_", " "), png(figure)) for key, figure in plots.figures(advice).items()]
    text = "Predictions of the linear theory for bundled data; the text says how far the data are from its assumptions."
    return Result(f"How much corruption: {name}", text, drawn, printed=advice.text())


def all_results() -> Iterator[Result]:
    """Every result of the report, in order."""
    yield from theory_results()
    yield from map(prescription_result, ("digits", "photographs"))
