"""A config as a scikit-learn classifier of images: `ImageTextClassifier`.

Training is the command line's: same checks, same folds, same files. torch is imported
when training starts, in a process of its own unless the executor is `inline`, and when predicting.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from clip_pkg.api.image_lists import Images, files_of, labelled_files, table_of
from clip_pkg.base.errors import ConfigErrors, ConfigProblem, TrainingError, UserError
from clip_pkg.base.exit_codes import ExitCode
from clip_pkg.base.paths import RunPaths
from clip_pkg.config.describe import config_keys, key_names
from clip_pkg.config.diagnostics import Source
from clip_pkg.config.jsonc import path_text
from clip_pkg.config.load import LoadedConfigs, configs_from_mapping
from clip_pkg.config.schema import RunConfig
from clip_pkg.inference.checkpoint_choice import choose_checkpoints
from clip_pkg.launch.request import RunFolders, StudyRequest, TrainRequest
from clip_pkg.launch.terminal import Terminal
from clip_pkg.results.folders import left_out
from clip_pkg.results.summary_schema import read_summary
from clip_pkg.scheduling.resources import Execution
from clip_pkg.study.folds_info import read_folds_info

if TYPE_CHECKING:
    from clip_pkg.inference.ensemble import Ensemble

Labels: TypeAlias = Sequence[Any]

DEFAULTS: Mapping[str, Any] = {
    key.key: key.default for key in config_keys() if key.key in RunConfig.model_fields
}
# Keys as the user wrote them, without the place in a list that a file would have.
BY_KEY = Source(name=lambda path: path_text(path[1:]))


class ImageTextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """One config, trained and cross-validated by `fit`; predicts with the mean of its folds.

    Parameters are the keys of a config (the README has the table; older flat spellings work too),
    and:

    output_dir: where results go, as with `--output-dir`; finished folds in it are used again. None:
        a temporary folder that lives as long as the estimator.
    executor: `process` or `inline`, as with `--executor`.
    gpus: such as `0,1`; None: all there are.
    device: where `predict` computes, `cpu` or `cuda:0`; None: the first GPU, if there is one.
    overwrite: start anew where `output_dir` holds results of other settings or images.
    verbose: show what the command line shows.

    After `fit`:

    classes_: C labels, sorted; columns of `predict_proba`.
    cv_summary_: `cv_summary.json`, the cross-validated scores.
    result_dir_: the config's folder; `load_run` gives its tables.
    """

    def __init__(
        self,
        *,
        output_dir: str | os.PathLike[str] | None = None,
        executor: str = "process",
        gpus: str | None = None,
        device: str | None = None,
        overwrite: bool = False,
        verbose: bool = False,
        **config: Any,
    ) -> None:
        self.output_dir = output_dir
        self.executor = executor
        self.gpus = gpus
        self.device = device
        self.overwrite = overwrite
        self.verbose = verbose
        for key, value in DEFAULTS.items():
            setattr(self, key, value)
        self._flat: tuple[str, ...] = ()
        self._set_config(config)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Every parameter with its value; flat spellings only if they were given."""
        own: dict[str, Any] = super().get_params(deep)
        return own | {key: getattr(self, key) for key in self._flat}

    def set_params(self, **params: Any) -> ImageTextClassifier:
        """Change parameters. Raises ConfigErrors for unknown keys."""
        mine = {key: value for key, value in params.items() if key in OWN_PARAMETERS}
        self._set_config({key: value for key, value in params.items() if key not in mine})
        for key, value in mine.items():
            setattr(self, key, value)
        return self

    def fit(
        self, X: Images, y: Labels | None = None, *, groups: Labels | None = None
    ) -> ImageTextClassifier:
        """Train every fold.

        X: a folder of class folders or a CSV file, as `--data-dir`; or N paths, with y, N labels,
        and groups, N names of what must not be torn apart by folds (patients).

        Raises UserError as the command line does, TrainingError when folds failed.
        """
        loaded = self._loaded()
        temporary, folder = None, self.output_dir
        if folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="clip_pkg-")
            folder = temporary.name
        run = RunPaths(Path(folder).resolve())
        data, labels = table_of(X, y, groups, run)
        self._train(run, data, loaded)
        paths = run.config(loaded.configs[0].name)
        summary = read_summary(paths.summary)
        if not summary["complete"]:
            raise TrainingError(
                f"{paths.root}: {', '.join(left_out(summary))}; the logs are in {run.logs}, and "
                "call fit with the same output_dir to resume"
            )
        names: list[str] = read_folds_info(paths.folds_info)["classes"]
        self.classes_ = np.array(names) if labels is None else np.unique(list(labels.values()))
        self._columns = np.argsort([(labels or {}).get(name, name) for name in names])
        self.cv_summary_ = summary
        self.result_dir_ = paths.root
        self._temporary = temporary
        self._ensemble: Ensemble | None = None
        return self

    def predict_proba(self, X: Images) -> NDArray[np.float64]:
        """Probabilities [N, C] of N images, the mean over folds; columns as `classes_`.

        X: N paths, or a folder or CSV file, whose images come in the order of `predict`'s output
        on the command line.

        Raises DataError for images that cannot be read, all of them at once.
        """
        check_is_fitted(self)
        answers = [some.probabilities for some in self._model().answers(files_of(X))]
        return np.concatenate([np.empty((0, len(self.classes_))), *answers])[:, self._columns]

    def predict(self, X: Images) -> NDArray[Any]:
        """Labels [N] of N images, as in `classes_`; see `predict_proba`."""
        best = self.predict_proba(X).argmax(axis=1)
        chosen: NDArray[Any] = self.classes_[best]
        return chosen

    def score(
        self, X: Images, y: Labels | None = None, sample_weight: Sequence[float] | None = None
    ) -> float:
        """Accuracy, a fraction. Without y, X is a folder of class folders or a CSV file.

        Scores on training images are too high: `cv_summary_` has the cross-validated ones.
        """
        if y is None:
            X, y = labelled_files(X)
        return float(super().score(X, y, sample_weight))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "cv_summary_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        if getattr(self, "_temporary", None) is not None:
            raise UserError(
                "the models of this ImageTextClassifier are in a temporary folder, which cannot be "
                "pickled or copied: fit it with output_dir"
            )
        state: dict[str, Any] = super().__getstate__()
        return {key: value for key, value in state.items() if key != "_ensemble"}

    def _set_config(self, config: Mapping[str, Any]) -> None:
        unknown = {key: value for key, value in config.items() if key not in key_names()}
        if unknown:
            configs_from_mapping([unknown], BY_KEY)
        if "sweep" in config:
            problem = "an estimator is one config; GridSearchCV tries several"
            raise ConfigErrors([ConfigProblem(problem, "sweep")])
        for key, value in config.items():
            setattr(self, key, value)
        self._flat += tuple(key for key in config if key not in {*DEFAULTS, *self._flat})

    def _loaded(self) -> LoadedConfigs:
        """Check the config; values equal to their default count as not given."""
        given = {key: _plain(getattr(self, key)) for key in (*DEFAULTS, *self._flat)}
        return configs_from_mapping(
            [{k: v for k, v in given.items() if k not in DEFAULTS or v != DEFAULTS[k]}], BY_KEY
        )

    def _train(self, run: RunPaths, data: Path, loaded: LoadedConfigs) -> None:
        from clip_pkg.launch.training import train  # noqa: PLC0415  not for a wrong config

        request = TrainRequest(
            study=StudyRequest(loaded=loaded, data_dir=data),
            folders=RunFolders(output_dir=run.output_dir, log_dir=run.logs),
            execution=Execution(executor=self.executor, gpus=self.gpus),
            overwrite=self.overwrite,
        )
        terminal = Terminal() if self.verbose else Terminal.silent()
        if train(request, terminal) == ExitCode.INTERRUPTED:
            raise KeyboardInterrupt

    def _model(self) -> Ensemble:
        if getattr(self, "_ensemble", None) is None:
            from clip_pkg.inference.loading import load_ensemble  # noqa: PLC0415

            chosen = choose_checkpoints(self.result_dir_)
            self._ensemble = load_ensemble(chosen.checkpoints, self.device)
        assert self._ensemble is not None, "just loaded"
        return self._ensemble


def _plain(value: Any) -> Any:
    """The JSON value: grids of parameters hold numpy's numbers."""
    if isinstance(value, np.generic):
        return value.item()
    return os.fspath(value) if isinstance(value, os.PathLike) else value


OWN_PARAMETERS = tuple(
    name
    for name, parameter in inspect.signature(ImageTextClassifier.__init__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)


def _signature() -> inspect.Signature:
    """`__init__` with every key of the schema, for scikit-learn, `help` and editors."""
    signature = inspect.signature(ImageTextClassifier.__init__)
    *own, flat = signature.parameters.values()
    keys = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default)
        for key, default in DEFAULTS.items()
    ]
    return signature.replace(parameters=[*own, *keys, flat])


ImageTextClassifier.__init__.__signature__ = _signature()  # type: ignore[attr-defined]
