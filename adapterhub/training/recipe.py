"""The recipe: everything that decides a training run, typed and validated once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapterhub.specs import AdapterSpec, LoraSpec, PrefixSpec

Share = Annotated[float, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]


class _Section(BaseModel):
    """A frozen part of a recipe; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class BackboneSection(_Section):
    """The frozen model.

    Args:
        name: a name in the catalog, a Hub id, or a local folder.
        revision: of a Hub id; the catalog's where none is given.
        quantization: how its linear layers are held.
        compute_dtype: type of activations; ``auto`` is bfloat16 where the device computes
            in it, else float32.
    """

    name: str
    revision: str | None = None
    quantization: Literal["nf4", "fp4", "int8", "none"] = "nf4"
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"


class TaskSection(_Section):
    """What is learned.

    Args:
        name: of the task, e.g. ``text-classification``.
        max_length: longest input in tokens; longer ones are cut.
        label_smoothing: share of the target's probability spread over all classes.
        class_weights: ``balanced`` for inverse frequency, or a weight per label.
        max_new_tokens: longest generated answer.
        system_prompt: first message of every conversation.
        instruction: what the backbone is told to do; the task's own where empty.
        multi_label: a text may have any number of labels; ``label`` is then a list.
        threshold: probability from which on a label is given, with ``multi_label``.
        out_of_scope: label of texts that no other label fits; metrics then tell accuracy on the
            others from the share of these that is recognized.
        stride: tokens that one window of a long context shares with the next.
        max_answer_tokens: longest answer that is looked for in a context.
        unanswerable: a question may have no answer in its context.
        calibrate: fit ``temperature`` on the validation rows when training ends.
        temperature: logits are divided by it before they become probabilities; above 1 answers
            are less sure. What is fitted is stored here.
        image_size: side in pixels that pictures are brought to; the backbone's own where not
            given.
    """

    name: str
    max_length: Count = 512
    label_smoothing: Share = 0.0
    class_weights: Literal["balanced"] | dict[str, Positive] | None = None
    max_new_tokens: Count = 64
    system_prompt: str = ""
    instruction: str = ""
    multi_label: bool = False
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    out_of_scope: str | None = None
    stride: Count = 128
    max_answer_tokens: Count = 30
    unanswerable: bool = False
    calibrate: bool = False
    temperature: Positive = 1.0
    image_size: Annotated[int, Field(ge=1, le=2048)] | None = None


class HubData(_Section):
    """A data set on the Hub; ``data.train`` and the others then name its splits."""

    id: str
    revision: str | None = None
    config: str | None = None


class SplitSection(_Section):
    """How to split where the data brings no validation or test rows of its own.

    Args:
        validation: share of the training rows held out for validation.
        test: share of the training rows held out for the test.
        seed: of the split; equal rows always fall on the same side.
    """

    validation: Share = 0.1
    test: Share = 0.0
    seed: int = 13


class DataSection(_Section):
    """Where the rows come from.

    Args:
        train: path of a file, or name of a split of ``hub``. Relative paths start from the
            working directory. Rows of pictures name files below its folder, or in the zip file
            of its name beside it (``train.zip`` beside ``train.jsonl``).
        validation: as ``train``; split off ``train`` where none is given.
        test: as ``train``; optional.
        hub: a data set on the Hub instead of files.
        format: of the files; ``auto`` reads it off the file's ending.
        columns: names of the columns of a CoNLL file, in order.
        fields: task field to column name, where they differ.
        split: used where ``validation`` is missing.
        drop_duplicates: remove repeated training rows before splitting.
        limit_per_label: use only so many training rows of each label, drawn by ``split.seed``;
            fewer rows are among those that more rows hold.
        limit_train: use only so many training rows, drawn by ``split.seed``.
        limit_validation: use only so many validation rows.
    """

    train: str
    validation: str | None = None
    test: str | None = None
    hub: HubData | None = None
    format: Literal["auto", "jsonl", "csv", "tsv", "parquet", "conll"] = "auto"
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
        rank: inner dimension of the two factors.
        alpha: the factors' product is scaled by ``alpha / rank``.
        dropout: probability applied to the input of the first factor in training.
        target_modules: last parts of module names, or ``all-linear``.
        rslora: scale by ``alpha / sqrt(rank)`` instead.
        dora: adapt direction and magnitude apart.
        init: of the factors: ``default``, ``gaussian``, ``orthogonal`` or ``random``.
    """

    method: Literal["lora"] = "lora"
    rank: Count = 16
    alpha: Positive = 32.0
    dropout: Share = 0.0
    target_modules: tuple[str, ...] | str = ("all-linear",)
    rslora: bool = False
    dora: bool = False
    init: str = "default"

    def spec(self) -> AdapterSpec:
        """Return the same as a plain spec."""
        targets = self.target_modules
        return LoraSpec(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            target_modules=(targets,) if isinstance(targets, str) else targets,
            rslora=self.rslora,
            dora=self.dora,
            init=self.init,
        )


class PrefixSection(_Section):
    """Prefix tuning, for decoders.

    Args:
        method: ``prefix``.
        num_virtual_tokens: length of the prefix, in positions.
        projection: re-parametrise the prefix by a small network while training.
    """

    method: Literal["prefix"]
    num_virtual_tokens: Count = 16
    projection: bool = False

    def spec(self) -> AdapterSpec:
        """Return the same as a plain spec."""
        return PrefixSpec(num_virtual_tokens=self.num_virtual_tokens, projection=self.projection)


class OptimizerSection(_Section):
    """The optimizer.

    Args:
        name: AdamW, SGD, or bitsandbytes' AdamW with 8-bit states.
        learning_rate: peak value.
        weight_decay: decoupled, applied to matrices only.
        betas: of AdamW.
        momentum: of SGD.
        clip_norm: largest norm of the whole gradient; 0 switches clipping off.
        lora_plus_ratio: learning rate of LoRA's ``B`` over that of ``A``; 1 is plain LoRA.
            Source: Hayou et al. 2024, arXiv:2402.12354.
        head_ratio: learning rate of the head over that of the adapter.
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
    """How the learning rate moves.

    Args:
        name: shape after the warm-up.
        warmup: share of all steps spent rising from 0.
    """

    name: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Share = 0.06


class TrainSection(_Section):
    """The loop.

    Args:
        batch_size: rows a batch.
        batch_tokens: tokens a batch, instead of ``batch_size``.
        gradient_accumulation: batches an optimizer step.
        epochs: passes over the training rows.
        steps: optimizer steps, instead of ``epochs``.
        evaluate_every: optimizer steps between evaluations; each epoch where not given.
        metric: what decides which weights are best; the task's own where not given.
        greater_is_better: direction of ``metric``; known for the task's own metrics.
        patience: evaluations without a better value before stopping; none where not given.
        keep_best: end with the best weights seen instead of the last; among equals, with
            those of least loss.
        checkpoint_every: optimizer steps between checkpoints; one at each evaluation where
            not given.
        parts: what learns.
        seed: of everything drawn at random.
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

    @model_validator(mode="after")
    def _one_of_each(self) -> TrainSection:
        if self.batch_size and self.batch_tokens:
            raise ValueError("batch_size and batch_tokens exclude each other, both are given")
        if self.epochs and self.steps:
            raise ValueError("epochs and steps exclude each other, both are given")
        return self


class Recipe(_Section):
    """A whole training run.

    Args:
        name: under which the adapter is stored.
        description: a line on what the adapter does.
        backbone: the frozen model.
        task: what is learned.
        data: where the rows come from.
        adapter: what is trained.
        optimizer: how it moves.
        schedule: how the learning rate moves.
        train: the loop.
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
