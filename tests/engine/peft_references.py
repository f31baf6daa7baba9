"""What plain transformers and peft make of a stored adapter, one sequence at a time."""

from dataclasses import replace

import torch
from peft import PeftModel
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from adapterhub.data.packing import pack

CLASSES = {
    "causal_lm": AutoModelForCausalLM,
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "image": AutoModelForImageClassification,
}


class PeftReference:
    """An artifact in plain peft, on a backbone's folder.

    Args:
        backbone: Folder of the backbone.
        artifact: Folder of the artifact.
        task: Task of the adapter.
        with_adapter: Whether the adapter is used; without it, its head reads the base model.
    """

    def __init__(self, backbone, artifact, task, *, with_adapter=True):
        self.task = task
        counted = {} if task.head == "causal_lm" else {"num_labels": len(task.labels)}
        stock = CLASSES[task.head].from_pretrained(backbone, dtype=torch.float32, **counted)
        # of a checkpoint of Llama's, the class for questions finds no base model
        if stock.base_model_prefix == "transformer":
            stock.transformer = AutoModel.from_pretrained(backbone, dtype=torch.float32)
        self.model = PeftModel.from_pretrained(stock, str(artifact)).eval()
        if not with_adapter:
            for name, parameter in self.model.named_parameters():
                if "lora_B" in name:
                    parameter.data.zero_()

    def logits(self, example):
        """Return the outputs of the head at the selected tokens, ``[selected, classes]``."""
        with torch.no_grad():
            if example.media is not None:
                return self.model(
                    **{self.model.base_model.model.main_input_name: example.media()[None]}
                ).logits
            ids = torch.tensor([list(example.input_ids)])
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if example.segment_ids:
                inputs["token_type_ids"] = torch.tensor([list(example.segment_ids)])
            output = self.model(**inputs)
        if self.task.head == "span":
            ends = torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1)
            return ends[list(example.select)]
        found = output.logits
        return found if found.dim() == 2 else found[0, list(example.select)]

    def decode(self, example):
        """Return the raw prediction of an encoded example, and its summed loss and weight."""
        logits, batch = self.logits(example), pack([replace(example, media=None)])
        (decoded,) = self.task.decode(lambda states: states, logits, batch)
        if not len(example.targets):
            return decoded, 0.0, 0.0
        loss = float(self.task.loss(lambda states: states, logits, batch))
        return decoded, loss, self.task.weight(batch)

    def predict(self, example):
        """Return the task's prediction, joined over all windows."""
        parts = [
            self.task.prediction(window, self.decode(self.task.encode(window, 1, train=False))[0])
            for window in self.task.windows(example)
        ]
        return self.task.join(parts)

    def evaluate(self, examples):
        """Return the task's metrics and the mean loss."""
        windows = [
            window
            for example in examples
            for window in (self.task.windows(example) if self.task.reads_windows else [example])
        ]
        encoded = [self.task.encode(each, at, train=True) for at, each in enumerate(windows, 1)]
        decoded, losses, weights = zip(*map(self.decode, encoded), strict=True)
        metrics = self.task.evaluate(windows, decoded).metrics
        return {"loss": sum(losses) / sum(weights), **metrics}

    def generate(self, messages, limit):
        """Return the text that follows a conversation, greedily."""
        generation = self.task.generation
        prompt = torch.tensor([generation.prompt_ids(messages)])
        with torch.no_grad():
            output = self.model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=limit,
                do_sample=False,
                eos_token_id=sorted(generation.stop_ids),
                pad_token_id=0,
            )
        return generation.text_of(output[0, prompt.shape[1] :].tolist())
