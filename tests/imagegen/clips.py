"""A small CLIP on disk: random weights, a tokenizer of bytes, the preprocessing of published models."""

import json

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PUBLISHED = {"crop_size": 24, "do_center_crop": True, "do_normalize": True, "do_resize": True, "image_mean": MEAN,
             "image_std": STD, "resample": 3, "size": 24}  # fmt: skip
"""As OpenAI's models have it, but smaller."""


def write_tokenizer(file):
    """Bytes as tokens, between the ends that CLIP's tokenizer writes; capitals are small."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|startoftext|>", "<|endoftext|>"]
    inner = Tokenizer(models.BPE({name: k for k, name in enumerate(names)}, []))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = [("<|startoftext|>", 256), ("<|endoftext|>", 257)]
    inner.post_processor = processors.TemplateProcessing(single=f"{ends[0][0]} $A {ends[1][0]}", special_tokens=ends)
    inner.add_special_tokens([name for name, _ in ends])
    inner.save(str(file))


def save_clip(folder):
    """Save a small CLIP, and return transformers' model; its weights are far from its initial ones."""
    import torch
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"vocab_size": 258, "max_position_embeddings": 24, "bos_token_id": 256, "eos_token_id": 257}
    vision = sizes | {"image_size": 24, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    torch.manual_seed(0)
    made = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json")
    (folder / "preprocessor_config.json").write_text(json.dumps(PUBLISHED))
    return made
