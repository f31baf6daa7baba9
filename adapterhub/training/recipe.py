"""The recipe: every setting of a training run, typed and validated."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from adapterhub.data.dataset import FileFormat  # noqa: TC001  # pydantic reads it
from adapterhub.data.shapes.table import ShapeName  # noqa: TC001
from adapterhub.specs import AdapterSpec, LoraSpec, PrefixSpec
from adapterhub.tasks.base import TaskOptions

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Paths = str | tuple[str, ...]
Positive = Annotated[float, Field(gt=0.0)]


def _compiled(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


Expression = Annotated[str, AfterValidator(_compiled)]


#: Experiment trackers; each is an extra of the same name.
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class _Section(BaseModel):
    """A frozen section of a recipe; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class BackboneSection(_Section):
    """The frozen base model.

    Args:
        name: Name in the catalog, Hub id, or local folder.
        revision: Commit, tag or branch of a Hub id; the catalog's where not given.
        quantization: Storage of the linear layers.
        compute_dtype: Type of activations; ``auto`` is bfloat16 where the device supports it,
            else float32.
    """

    name: str
    revision: str | None = None
    quantization: Literal["nf4", "fp4", "int8", "none"] = "nf4"
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"


class TaskSection(TaskOptions):
    """The task and its settings; see ``TaskOptions``."""

    name: str


class HubData(_Section):
    """A data set on the Hub; ``data.train`` and the other keys then name its splits.

    Args:
        id: Id of the data set, ``owner/name``.
        revision: Commit, tag or branch.
        config: Configuration, where the data set has several.
    """

    id: str
    revision: str | None = None
    config: str | None = None


class SplitSection(_Section):
    """Splits held out from the training examples where the data has none.

    Args:
        validation: Share of the training examples held out for validation.
        test: Share of the training examples held out for testing.
        seed: Seed of the split; equal examples always fall into the same split.
    """

    validation: Share = 0.1
    test: Share = 0.0
    seed: int = 13


class DataSection(_Section):
    """The data.

    Args:
        train: Path of a file, pattern such as ``parts/*.jsonl``, folder of a saved data set or of
            texts by label, list of these, or name of a split of ``hub``. Relative paths start from
            the working directory. Examples with images name files below its folder, or in the zip
            file of its name beside it (``train.zip`` beside ``train.jsonl``).
        validation: As ``train``; held out from ``train`` where not given.
        test: As ``train``; optional.
        hub: Data set on the Hub instead of files.
        format: Format of the files, inferred from the file name by ``auto``; or the shape of the
            examples, such as ``sharegpt``, which is recognized by the columns.
        encoding: Encoding of text files, such as ``cp1252``; by default UTF-8, or what a byte-order
            mark says.
        delimiter: Character between the values of a CSV file; found where not given.
        columns: Names of the columns of a CoNLL file, in order.
        fields: Column of each task field, where they differ.
        split: Splits held out where ``validation`` or ``test`` is missing.
        drop_duplicates: Whether to remove duplicate training examples before splitting.
        limit_per_label: Number of training examples of each label, sampled by ``split.seed``; a
            smaller sample is part of a larger one.
        limit_train: Number of training examples, sampled by ``split.seed``.
        limit_validation: Number of validation examples.
    """

    train: Paths
    validation: Paths | None = None
    test: Paths | None = None
    hub: HubData | None = None
    format: Literal["auto", FileFormat, ShapeName] = "auto"
    encoding: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    columns: tuple[str, ...] = ("tokens", "pos", "chunk", "tags")
    fields: dict[str, str] = Field(default_factory=dict)
    split: SplitSection = SplitSection()
    drop_duplicates: bool = False
    limit_per_label: Count | None = None
    limit_train: Count | None = None
    limit_validation: Count | None = None


class LoraSection(_Section):
    """Low-rank adaptation.

    Args:
        method: ``lora``.
        rank: Inner dimension of the two factors.
        alpha: Numerator of the scale ``alpha / rank`` of the factors' product.
        dropout: Dropout probability on the input of the first factor in training.
        target_modules: Last parts of module names, or ``all-linear``.
        rslora: Whether to scale by ``alpha / sqrt(rank)`` instead.
        dora: Whether to adapt direction and magnitude separately (DoRA).
        init: Initialization: ``default``, ``gaussian``, ``orthogonal`` or ``random``.
        rank_pattern: Rank of single modules, by their name or a regular expression for it. The
            first key in alphabetical order that matches counts.
        alpha_pattern: ``alpha`` of single modules, like ``rank_pattern``.
        target_parameters: Last parts of the names of parameters that belong to no linear layer,
            such as the experts of a mixture (``mlp.experts.down_proj``).
    """

    method: Literal["lora"] = "lora"
    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Share = 0.0
    target_modules: tuple[str, ...] | str = ("all-linear",)
    rslora: bool = False
    dora: bool = False
    init: str = "default"
    rank_pattern: dict[Expression, Count] = Field(default_factory=dict)
    alpha_pattern: dict[Expression, Positive] = Field(default_factory=dict)
    target_parameters: tuple[str, ...] = ()

    def spec(self) -> AdapterSpec:
        """Return the section as a plain spec."""
        targets = self.target_modules
        return LoraSpec(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            target_modules=(targets,) if isinstance(targets, str) else targets,
            rslora=self.rslora,
            dora=self.dora,
            init=self.init,
            rank_pattern=self.rank_pattern,
            alpha_pattern=self.alpha_pattern,
            target_parameters=tuple(sorted(set(self.target_parameters))),
        )


class PrefixSection(_Section):
    """Prefix tuning, for decoders.

    Args:
        method: ``prefix``.
        num_virtual_tokens: Number of virtual tokens in the prefix.
        projection: Whether to reparametrize the prefix by a small network in training.
    """

    method: Literal["prefix"]
    num_virtual_tokens: Count = 16
    projection: bool = False

    def spec(self) -> AdapterSpec:
        """Return the section as a plain spec."""
        return PrefixSpec(num_virtual_tokens=self.num_virtual_tokens, projection=self.projection)


class OptimizerSection(_Section):
    """The optimizer.

    Args:
        name: AdamW, SGD, or bitsandbytes' AdamW with 8-bit states.
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay, applied to matrices only.
        betas: Betas of AdamW.
        momentum: Momentum of SGD.
        clip_norm: Largest norm of the whole gradient; 0 switches clipping off.
        lora_plus_ratio: Learning rate of LoRA's ``B`` over that of ``A``; 1 is plain LoRA.
            Source: Hayou et al. 2024, arXiv:2402.12354.
        head_ratio: Learning rate of the head over that of the adapter.
    """

    name: Literal["adamw", "sgd", "adamw_8bit"] = "adamw"
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    betas: tuple[Share, Share] = (0.9, 0.999)
    momentum: Share = 0.9
    clip_norm: Annotated[float, Field(ge=0.0)] = 1.0
    lora_plus_ratio: Positive = 1.0
    head_ratio: Positive = 1.0


class ScheduleSection(_Section):
    """The learning rate schedule.

    Args:
        name: Shape after the warm-up.
        warmup: Share of all steps in which the learning rate rises from 0.
    """

    name: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Share = 0.06


class TrainSection(_Section):
    """The training loop.

    Args:
        batch_size: Examples per batch; 32 where neither this nor ``batch_tokens`` is given.
        batch_tokens: Tokens per batch, instead of ``batch_size``.
        gradient_accumulation: Batches per optimizer step.
        epochs: Passes over the training examples; 3 where neither this nor ``steps`` is given.
        steps: Optimizer steps, instead of ``epochs``.
        evaluate_every: Optimizer steps between evaluations; an epoch where not given.
        metric: Metric that selects the best weights; the task's own where not given.
        greater_is_better: Direction of ``metric``; known for the task's own metrics.
        patience: Evaluations without improvement before early stopping; off where not given.
        keep_best: Whether to store the best weights instead of the last; among equals, those
            with the lowest loss.
        checkpoint_every: Optimizer steps between checkpoints; each evaluation where not given.
        parts: Trained parameters.
        seed: Seed of all randomness.
        trackers: Experiment trackers that the run is reported to. They are no part of the stored
            recipe, because they change nothing in the adapter.
    """

    batch_size: Count | None = None
    batch_tokens: Count | None = None
    gradient_accumulation: Count = 1
    epochs: Count | None = None
    steps: Count | None = None
    evaluate_every: Count | None = None
    metric: str | None = None
    greater_is_better: bool | None = None
    patience: Count | None = None
    keep_best: bool = True
    checkpoint_every: Count | None = None
    parts: Literal["adapter", "head", "adapter_and_norms"] = "adapter"
    seed: int = 7
    trackers: Annotated[tuple[Tracker, ...], Field(exclude=True)] = ()

    @model_validator(mode="after")
    def _one_of_each(self) -> TrainSection:
        if self.batch_size and self.batch_tokens:
            raise ValueError("batch_size and batch_tokens exclude each other, both are given")
        if self.epochs and self.steps:
            raise ValueError("epochs and steps exclude each other, both are given")
        return self


class Recipe(_Section):
    """All settings of a training run.

    Args:
        name: Name of the adapter in the registry.
        description: One line on what the adapter does.
        backbone: Frozen base model.
        task: Task and its settings.
        data: Training, validation and test data.
        adapter: Adapter method and its settings.
        optimizer: Optimizer.
        schedule: Learning rate schedule.
        train: Training loop.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)?$")]
    description: str = ""
    backbone: BackboneSection
    task: TaskSection
    data: DataSection
    adapter: Annotated[LoraSection | PrefixSection, Field(discriminator="method")] = LoraSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    train: TrainSection = TrainSection()
