"""Run as a program: push a tiny adapter with peft, load it back, and through transformers."""

import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_configs import bert_config
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

#: More of a model than the adapter; both sides make the same one.
SEED = 3


def body():
    """Return the model that the adapter is for."""
    torch.manual_seed(SEED)
    return BertForSequenceClassification(bert_config(vocab_size=50))


def main(name):
    """Publish and load back; end with an error if the answers differ."""
    rows = torch.arange(12).reshape(2, 6)
    config = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS", init_lora_weights=False)
    model = get_peft_model(body(), config).eval()
    with torch.inference_mode():
        expected = model(rows).logits
        plain = body().eval()(rows).logits
    model.push_to_hub(name)
    loaded = PeftModel.from_pretrained(body(), name).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(rows).logits, expected)
        assert not torch.allclose(plain, expected)
    with tempfile.TemporaryDirectory() as folder:
        body().save_pretrained(folder)
        through = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        through.load_adapter(name)
        with torch.inference_mode():
            assert torch.allclose(through(rows).logits, expected, atol=1e-6)


if __name__ == "__main__":
    main(sys.argv[1])
