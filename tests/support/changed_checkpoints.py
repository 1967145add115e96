"""Checkpoints as people have them: the tiny one, changed in one respect."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rao_kedro.config.data_engineering import ModelParameters
from rao_kedro.config.specs import ModelImportSpec
from rao_kedro.models.importing import main

# What Llama 3.2 does, and what Qwen 3 and DeepSeek's reasoning models do.
DATED = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}'
    '{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
    "{{- '<|im_start|>system\n\nToday Date: ' + date_string + '<|im_end|>\n' }}"
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
EMPTY_THOUGHTS = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['role'] == 'assistant' and loop.last %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{{- message['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
OPENS_THOUGHTS = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)


def copy_of(checkpoint, directory, **config):
    """Copy a checkpoint, with other fields of config.json; None takes a field out."""
    shutil.copytree(checkpoint, directory)
    edit(directory / "config.json", **config)
    return directory


def edit(path, **fields):
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings |= fields
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))


def edit_weights(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


def with_template(checkpoint, directory, template):
    copy_of(checkpoint, directory)
    (directory / "chat_template.jinja").write_text(template)
    return directory


def with_templates(checkpoint, directory, **templates):
    """The way of older checkpoints: a list of named templates in tokenizer_config.json."""
    copy_of(checkpoint, directory)
    (directory / "chat_template.jinja").unlink()
    named = [{"name": name, "template": template} for name, template in templates.items()]
    edit(directory / "tokenizer_config.json", chat_template=named)
    return directory


def in_shards(checkpoint, directory):
    AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(directory, max_shard_size="50KB")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(directory)
    return directory


def as_hub_snapshot(checkpoint, cache):
    """The layout of the hub's cache: a snapshot of relative links to blobs."""
    snapshot, blobs = cache / "snapshots/0123abcd", cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(checkpoint.iterdir())):
        shutil.copy(path, blobs / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    return snapshot


def with_own_head(checkpoint, directory):
    """A head that is not the embeddings under a configuration that says that it is."""
    copy_of(checkpoint, directory)
    edit_weights(directory, lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].flip(0).contiguous()}))
    return directory


def in_fp8(checkpoint, directory, block=16):
    """Real FP8 weights with a scale per block, as DeepSeek publishes them; returns the weights that they stand for."""
    quantised = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [block, block]}
    copy_of(checkpoint, directory, dtype="bfloat16", quantization_config=quantised)
    plain = {}

    def quantise(weights):
        for name, weight in list(weights.items()):
            if "proj" not in name:
                weights[name] = plain[name] = weight.bfloat16()
                continue
            rows, columns = weight.shape
            blocks = weight.view(rows // block, block, columns // block, block)
            scale = blocks.abs().amax((1, 3)) / 448
            eight = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            weights[name] = eight.view(rows, columns).contiguous()
            weights[f"{name}_scale_inv"] = scale.contiguous()
            plain[name] = (eight.float() * scale[:, None, :, None]).view(rows, columns)

    edit_weights(directory, quantise)
    return plain


def an_adapter(base, directory, **config):
    """A LoRA adapter that changes what its base computes."""
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                torch.nn.init.normal_(weight, std=0.3)
    adapted.save_pretrained(directory)
    return adapted.eval()


def import_model(tmp_path, name, source="checkpoint", **parameters):
    """Import a base model as the worker does, and return its directory."""
    model = ModelParameters(source=source, name=str(name), **parameters)
    spec = ModelImportSpec(model=model, output_dir=tmp_path / "out")
    (tmp_path / "spec.json").write_text(spec.model_dump_json())
    main(str(tmp_path / "spec.json"))
    return spec.output_dir
