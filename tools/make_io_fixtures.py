#!/usr/bin/env python3
"""Makes tests/fixtures/io with the libraries whose files hone reads: safetensors and PEFT.

    python3 tools/make_io_fixtures.py                 # write the fixtures
    python3 tools/make_io_fixtures.py --check FOLDER  # load an adapter that hone wrote for the fixtures' base model
    python3 tools/make_io_fixtures.py --events FOLDER # print what TensorBoard reads from a folder of event files

Needs torch, transformers, peft, safetensors; --events needs tensorboard. The output is the same on every run.
"""
import argparse
import json
import pathlib
import shutil

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "io"


def base_model():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=6,
        )
    )


# Configurations whose resolution to modules, ranks and scales PEFT must agree on.
CASES = {
    "suffixes": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]),
    "all_linear": dict(r=2, lora_alpha=3, target_modules="all-linear"),
    "rslora": dict(r=4, lora_alpha=8, target_modules=["o_proj"], use_rslora=True),
    "layers": dict(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 2]),
    "layers_pattern": dict(
        r=4, lora_alpha=8, target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers"
    ),
    "exact_name": dict(
        r=4, lora_alpha=8, target_modules=["model.layers.1.mlp.up_proj", "k_proj"], layers_to_transform=[0]
    ),
    "expression": dict(r=4, lora_alpha=8, target_modules=r".*layers\.[01]\..*(q_proj|gate_proj)"),
    "lookahead": dict(r=4, lora_alpha=8, target_modules=r"^(?!.*self_attn).*up_proj$"),
    "exclude": dict(r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=["self_attn.q_proj", "down_proj"]),
    "patterns": dict(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "up_proj"],
        rank_pattern={"layers.1.self_attn.q_proj": 2, "v_proj": 3, r"layers\.\d+\.mlp\.up_proj": 5},
        alpha_pattern={"q_proj": 16, "layers.2.*v_proj": 1.5},
    ),
}


def write_targets():
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    cases = {}
    names = [n for n, m in base_model().named_modules() if type(m).__name__ == "Linear"]
    for case, options in CASES.items():
        model = get_peft_model(base_model(), LoraConfig(task_type="CAUSAL_LM", **options))
        chosen = {}
        for name, module in model.base_model.model.named_modules():
            if isinstance(module, LoraLayer):
                chosen[name] = {"rank": module.r["default"], "scale": module.scaling["default"]}
        config = model.peft_config["default"].to_dict()
        config = json.loads(json.dumps(config, default=lambda v: sorted(v) if isinstance(v, set) else str(v)))
        # all-linear is resolved to a list by the library; keep what the user wrote.
        config["target_modules"] = options["target_modules"]
        config["peft_type"], config["task_type"] = "LORA", "CAUSAL_LM"
        cases[case] = {"config": config, "modules": chosen}
    text = json.dumps({"linear_modules": names, "cases": cases}, indent=1, sort_keys=False)
    (OUT / "peft_targets.json").write_text(text + "\n")


def write_adapter(name, dtype, **options):
    import torch
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(base_model(), LoraConfig(task_type="CAUSAL_LM", **options))
    torch.manual_seed(2)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn_like(parameter))
    model.to(dtype)
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    # The library keeps the names in a set, whose order differs from run to run.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    sums = {}
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            values = parameter.detach().float()
            sums[key.replace(".default", "")] = {
                "shape": list(values.shape),
                "first": values.flatten()[0].item(),
                "last": values.flatten()[-1].item(),
                "sum": values.double().sum().item(),
            }
    (folder / "expected.json").write_text(json.dumps(sums, indent=1) + "\n")


def write_types():
    import torch
    from safetensors.torch import save_file

    base = torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, -4.0]])
    tensors = {
        "f64": base.double(),
        "f32": base,
        "f16": base.half(),
        "bf16": base.bfloat16(),
        "f8_e4m3": base.to(torch.float8_e4m3fn),
        "f8_e5m2": base.to(torch.float8_e5m2),
        "i64": base.long(),
        "i32": base.int(),
        "i16": base.short(),
        "i8": base.to(torch.int8),
        "u8": base.abs().to(torch.uint8),
        "bool": base > 0,
        "scalar": torch.tensor(7.0),
        "empty": torch.zeros(0, 5),
    }
    save_file(tensors, OUT / "types.safetensors", metadata={"format": "pt", "note": "a \"quoted\" note"})


def check(folder):
    import torch
    from peft import PeftModel

    model = PeftModel.from_pretrained(base_model(), folder)
    tokens = torch.arange(8).reshape(1, 8)
    with torch.no_grad():
        with_adapter = model(tokens).logits
        with model.disable_adapter():
            without = model(tokens).logits
    print(model.peft_config["default"])
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            print(key, tuple(parameter.shape), parameter.double().sum().item())
    print("largest logit change", (with_adapter - without).abs().max().item())


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder)).Reload()
    for tag in accumulator.Tags()["scalars"]:
        print(tag, [(e.step, e.value) for e in accumulator.Scalars(tag)])
    for tag in accumulator.Tags()["tensors"]:
        print(tag, [(e.step, list(e.tensor_proto.string_val)) for e in accumulator.Tensors(tag)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=pathlib.Path)
    parser.add_argument("--events", type=pathlib.Path)
    args = parser.parse_args()
    if args.check:
        check(args.check)
        return
    if args.events:
        events(args.events)
        return
    import torch

    OUT.mkdir(parents=True, exist_ok=True)
    write_types()
    write_targets()
    write_adapter("peft_plain", torch.float32, r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])
    write_adapter(
        "peft_bf16",
        torch.bfloat16,
        r=2,
        lora_alpha=4,
        target_modules="all-linear",
        use_rslora=True,
        rank_pattern={"down_proj": 3},
    )


if __name__ == "__main__":
    main()
