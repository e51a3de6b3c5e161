#!/usr/bin/env python3
"""Makes tests/fixtures/models: tiny random models of every family, with what transformers, PEFT
and torch compute on them.

    python3 tools/golden.py --out tests/fixtures/models            # write
    python3 tools/golden.py --out tests/fixtures/models --check    # make again and compare

Needs torch, transformers, peft, safetensors and numpy (the versions used are in the metadata of
every golden.safetensors). tests/fixtures/models/README.md explains the tensor names.
"""
import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import types
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import numpy as np
import torch
import torch.nn.functional as F
import peft
import safetensors
import safetensors.torch as st
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.deepseek_v2 import modeling_deepseek_v2

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from golden_families import FAMILIES

SEQUENCE_LENGTHS = [1, 5, 17, 70, 130]  # around the 64-key blocks of attention, and one token
TRAIN_LENGTHS = [9, 33, 70, 3, 21]
LORA_SEQUENCES = [2, 3]
GREEDY_TOKENS = 24
ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
CLIP = 1.0
STEPS = 10


def rng(*key):
    """numpy's legacy generator: its stream is frozen by numpy's compatibility policy."""
    return np.random.RandomState(zlib.crc32("/".join(map(str, key)).encode()))


def normal(shape, std, *key):
    return torch.from_numpy(rng(*key).standard_normal(tuple(shape)) * std).float()


def bf16_exact(t):
    return t.to(torch.bfloat16).float()


# ---- the model folder ---------------------------------------------------------------------------


def random_weight(family, name, shape, tied):
    """Values that bf16 holds exactly, so that fp32, bf16 and fp64 runs share one reference."""
    if name.endswith("norm.weight"):
        value = torch.from_numpy(rng(family, name).uniform(0.6, 1.4, tuple(shape))).float()
    elif name.endswith(".bias"):
        value = normal(shape, 0.3, family, name)
    elif "embed_tokens" in name:
        value = normal(shape, 2.5 / math.sqrt(shape[1]) if tied else 1.0, family, name)
    elif "lm_head" in name:
        value = normal(shape, 2.5 / math.sqrt(shape[1]), family, name)
    else:
        value = normal(shape, 1.2 / math.sqrt(shape[1]), family, name)
    return bf16_exact(value)


def directions(family, vocab, experts, each, width):
    """Routing far from ties: each token of the vocabulary has its experts, whose directions are in
    its embedding; the router looks along them. -> router [E, D], embeddings [V, D]."""
    axes = np.linalg.qr(rng(family, "axes").standard_normal((width, width)))[0][:experts]
    pull = np.full((vocab, experts), -0.6)
    for token in range(vocab):
        chosen = rng(family, "experts", token).permutation(experts)[:each]
        pull[token, chosen] = 2.4 - 0.5 * np.arange(each)
    return (torch.from_numpy(axes).float(), torch.from_numpy(pull @ axes).float())


def expert_matrices(kind, name, tensor):
    """A parameter of transformers, which stacks experts, as the tensors of its files."""
    body, _, leaf = name.rpartition(".")
    mixtral = kind == "mixtral"
    if mixtral:
        name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
    if not body.endswith(".mlp.experts"):
        return {name: tensor}
    body = body.replace(".mlp.", ".block_sparse_moe.") if mixtral else body
    names = ["w1", "w3", "w2"] if mixtral else ["gate_proj", "up_proj", "down_proj"]
    parts = {}
    for e, matrix in enumerate(tensor):
        both = matrix.chunk(2) if leaf == "gate_up_proj" else [matrix]
        for part, end in zip(both, names if leaf == "gate_up_proj" else names[2:]):
            parts[f"{body}.{e}.{end}.weight"] = part.contiguous()
    return parts


def write_model(family, spec, folder):
    os.makedirs(folder)
    path = os.path.join(folder, "config.json")
    with open(path, "w") as f:
        json.dump(spec["config"], f, indent=2)
        f.write("\n")
    config = AutoConfig.from_pretrained(folder)
    if spec.get("new_spelling"):
        config.architectures = spec["config"]["architectures"]
        config.save_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config)
    tied = config.tie_word_embeddings
    weights = {n: random_weight(family, n, p.shape, tied) for n, p in model.named_parameters()}
    assert ("lm_head.weight" in weights) != tied
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
    if experts:
        router, tokens = directions(family, config.vocab_size, experts,
                                    config.num_experts_per_tok, config.hidden_size)
        for n in weights:
            if n.endswith("mlp.gate.weight"):
                weights[n] = bf16_exact(0.5 * weights[n] + 1.5 * router)
        embedding = weights["model.embed_tokens.weight"]
        weights["model.embed_tokens.weight"] = bf16_exact(0.4 * embedding + tokens)
    weights = {n: w for name, t in weights.items()
               for n, w in expert_matrices(config.model_type, name, t).items()}
    if spec.get("file_dtype") == "bf16":
        weights = {n: w.to(torch.bfloat16) for n, w in weights.items()}
    shards = spec.get("shards", 1)
    if shards == 1:
        st.save_file(weights, os.path.join(folder, "model.safetensors"), {"format": "pt"})
        return
    index = {"metadata": {"total_size": sum(w.nbytes for w in weights.values())}, "weight_map": {}}
    names = sorted(weights)
    for s in range(shards):
        file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: weights[n] for n in names[s::shards]}
        st.save_file(part, os.path.join(folder, file), {"format": "pt"})
        index["weight_map"].update({n: file for n in part})
    index["weight_map"] = dict(sorted(index["weight_map"].items()))
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump(index, f, indent=2)
        f.write("\n")


# ---- models in the three precisions -------------------------------------------------------------


def load(folder, dtype, attention):
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32,
        attn_implementation=attention, experts_implementation="eager")
    return to_fp64(model) if dtype == "fp64" else model.eval()


def rotate_deepseek_v2(xq, xk, freqs_cis):
    """transformers' apply_rotary_emb, which casts fp64 to fp32."""
    def rotate(x):
        wide = x if x.dtype == torch.float64 else x.float()
        pairs = torch.view_as_complex(wide.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * freqs_cis.unsqueeze(1)).flatten(3).type_as(x)

    return rotate(xq), rotate(xk)


modeling_deepseek_v2.apply_rotary_emb = rotate_deepseek_v2


def to_fp64(model):
    """fp64 everywhere, but RoPE's angle (position times inverse frequency) as transformers has it:
    both factors and the product in fp32; cosine and sine of that angle in fp64. transformers casts
    to fp32 inside RMSNorm and routers whatever the model's type, so these are replaced too; its sdpa
    attention has no such cast."""
    inv_freq = model.model.rotary_emb.inv_freq.clone()
    assert inv_freq.dtype == torch.float32
    model = model.double().eval()

    def rope(self, x, position_ids):
        angle = (position_ids[..., None].float() * inv_freq).double()
        if "DeepseekV2" in type(self).__name__:
            return torch.polar(torch.full_like(angle, self.attention_scaling), angle)
        angle = torch.cat((angle, angle), dim=-1)
        return angle.cos() * self.attention_scaling, angle.sin() * self.attention_scaling

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)
                                              + self.variance_epsilon))

    def route(self, x):
        scores = (x.reshape(-1, self.hidden_dim) @ self.weight.T).softmax(-1)
        values, chosen = scores.topk(self.top_k)
        if getattr(self, "norm_topk_prob", True):  # Mixtral has no such field
            values = values / values.sum(-1, keepdim=True)
        return scores, values, chosen

    model.model.rotary_emb.forward = types.MethodType(rope, model.model.rotary_emb)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = types.MethodType(norm, module)
        if type(module).__name__.endswith("TopKRouter"):
            module.forward = types.MethodType(route, module)
    return model


def with_adapter(folder, adapter, dtype, attention):
    base = load(folder, "fp32" if dtype == "fp64" else dtype, attention)
    model = peft.PeftModel.from_pretrained(base, os.path.join(folder, adapter), is_trainable=True)
    if dtype == "fp64":
        to_fp64(base)
    return model.eval()  # dropout is 0 in every fixture


def adapter_name(parameter):
    """PEFT's name of a parameter in adapter_model.safetensors."""
    return parameter.replace(".default.", ".")


def trained_parameters(model, lora):
    return [(adapter_name(n) if lora else n, p) for n, p in model.named_parameters()
            if p.requires_grad]


# ---- what is computed ---------------------------------------------------------------------------


def logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens[None].long()).logits[0]


def total_loss(model, batch, padded=False):
    """Mean cross-entropy over all trained tokens of all sequences. `padded`: one forward of the
    whole batch, padded on the right, as a transformers user would run it."""
    count = sum(int(trained.sum()) for _, trained in batch)
    if padded:
        longest = max(len(t) for t, _ in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros(len(batch), longest, dtype=torch.long)
        for i, (tokens, _) in enumerate(batch):
            ids[i, :len(tokens)] = tokens.long()
            mask[i, :len(tokens)] = 1
        rows = model(input_ids=ids, attention_mask=mask).logits
        outputs = [rows[i, :len(t)] for i, (t, _) in enumerate(batch)]
    else:
        outputs = [model(input_ids=t[None].long()).logits[0] for t, _ in batch]
    total = 0.0
    for (tokens, trained), out in zip(batch, outputs):
        out = out.float() if out.dtype == torch.bfloat16 else out
        losses = F.cross_entropy(out[:-1], tokens[1:].long(), reduction="none")
        total = total + (losses * trained[1:].to(losses.dtype)).sum()
    return total / count


def gradients(model, batch, lora, padded=False):
    model.zero_grad(set_to_none=True)
    loss = total_loss(model, batch, padded)
    loss.backward()
    return loss.detach(), {n: p.grad.detach().clone() for n, p in trained_parameters(model, lora)}


def adamw(model, batch, lora):
    """Losses before each step and gradient norms before clipping."""
    parameters = [p for _, p in trained_parameters(model, lora)]
    optimizer = torch.optim.AdamW(parameters, **ADAMW)
    losses, norms = [], []
    for _ in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        loss = total_loss(model, batch)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, CLIP)))
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses, norms


def greedy(model, prompt, count):
    """Greedy tokens, and the least gap between the two largest logits on the way."""
    tokens, gap = prompt, math.inf
    for _ in range(count):
        best = torch.topk(logits(model, tokens)[-1], 2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        tokens = torch.cat([tokens, best.indices[:1].int()])
    return tokens[len(prompt):], gap


def assert_fp64(model, batch, lora, grads):
    """The fp64 gradients against a central difference: an operation left in fp32 shows."""
    direction = {n: normal(p.shape, 1.0, "direction", n).double()
                 for n, p in trained_parameters(model, lora)}
    step, values = 1e-6, []
    with torch.no_grad():
        for shift in (step, -2 * step):
            for n, p in trained_parameters(model, lora):
                p += shift * direction[n]
            values.append(float(total_loss(model, batch)))
        for n, p in trained_parameters(model, lora):
            p += step * direction[n]
    numeric = (values[0] - values[1]) / (2 * step)
    exact = float(sum((grads[n] * direction[n]).sum() for n in grads))
    scale = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
    assert abs(numeric - exact) < 2e-8 * scale, (numeric, exact, scale)


def max_error(a, b):
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def rms_error(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


class Golden:
    """The tensors of one golden.safetensors."""

    def __init__(self):
        self.tensors = {}

    def add(self, name, value):
        if not torch.is_tensor(value):
            value = torch.tensor(value if isinstance(value, list) else [value],
                                 dtype=torch.float64)
        assert name not in self.tensors, name
        assert bool(torch.isfinite(value.double()).all()), name
        self.tensors[name] = (value.reshape(1) if value.dim() == 0 else value).contiguous()

    def errors(self, kind, runs, truth):
        """For every tensor the smallest error of `runs` (lists of name -> tensor)."""
        for name, b in truth.items():
            self.add(f"{kind}.err.{name}", min(max_error(run[name], b) for run in runs))
            if kind == "bf16":
                self.add(f"{kind}.rms.{name}", min(rms_error(run[name], b) for run in runs))


def evaluate(model, sequences, batch, prefix, lora, padded=False):
    """All logits, the loss and all gradients by their fixture names, and the logits of all
    sequences as one tensor."""
    head = prefix + "." if lora else ""
    out = {f"{head}seq.{i}.logits": logits(model, t) for i, t in sequences.items()}
    out[f"{head}seq.all.logits"] = torch.cat([v for v in out.values()])
    loss, grads = gradients(model, batch, lora, padded)
    grads = by_matrix(model, grads, lora)
    out[f"{prefix}.loss"] = loss.reshape(1)
    out.update({f"{prefix}.grad.{n}": g for n, g in grads.items()})
    return out


def by_matrix(model, grads, lora):
    """Gradients by the names of the model's files. Of an adapter's experts: expert by expert, under
    the name of the parameter that is adapted; PEFT has A so, [experts * rank, in], but B by rank,
    [out, rank * experts]."""
    if not lora:
        return {n: g for name, t in grads.items()
                for n, g in expert_matrices(model.config.model_type, name, t).items()}
    out = {}
    for name, g in grads.items():
        for old, new in ((".experts.base_layer.lora", ".experts.gate_up_proj.lora"),
                         (".experts.lora", ".experts.down_proj.lora")):
            if old in name:
                name = name.replace(old, new)
                if ".lora_B." in name:
                    experts = model.config.num_experts if hasattr(model.config, "num_experts") \
                        else model.config.num_local_experts
                    g = g.reshape(len(g), -1, experts).permute(2, 0, 1).reshape(-1, g.shape[1] // experts)
                break
        out[name] = g
    return out


def add_case(golden, make_model, sequences, batch, prefix, lora):
    """One set of goldens (the full model, or one adapter). `make_model(dtype, attention)`."""
    exact_model = make_model("fp64", "sdpa")
    exact = evaluate(exact_model, sequences, batch, prefix, lora)
    assert_fp64(exact_model, batch, lora, gradients(exact_model, batch, lora)[1])
    model = make_model("fp32", "eager")
    single = evaluate(model, sequences, batch, prefix, lora)
    half = [evaluate(make_model("bf16", a), sequences, batch, prefix, lora, padded=True)
            for a in ("eager", "sdpa")]
    for name in single:
        if ".all." not in name:
            golden.add(name, single[name].float())
            golden.add("fp64." + name, exact[name])
    golden.errors("fp32", [single], exact)
    golden.errors("bf16", half, exact)
    losses, norms = adamw(model, batch, lora)
    exact_losses, exact_norms = adamw(exact_model, batch, lora)
    golden.add(f"{prefix}.adamw.losses", losses)
    golden.add(f"{prefix}.adamw.grad_norms", norms)
    golden.add(f"fp64.{prefix}.adamw.losses", exact_losses)
    golden.add(f"fp64.{prefix}.adamw.grad_norms", exact_norms)
    worst = max((max_error(single[n], exact[n]), n) for n in single)
    drift = max(abs(a - b) / b for a, b in zip(losses, exact_losses))
    print(f"  {prefix}: loss {losses[0]:.4f} -> {losses[-1]:.4f}, largest logit "
          f"{exact[next(iter(exact))].abs().max():.2f}, fp32 worst {worst[0]:.1e} ({worst[1]}), "
          f"AdamW fp32 against fp64 {drift:.1e}")
    assert worst[0] < 5e-6 and drift < 2e-5


def write_adapter(folder, name, family, options):
    """An adapter as PEFT saves it, with A and B both random."""
    base = load(folder, "fp32", "eager")
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **options)
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for n, p in trained_parameters(model, True):
            std = 1.0 / math.sqrt(p.shape[1]) if "lora_A" in n else 0.1
            p.copy_(normal(p.shape, std, family, name, n))
    path = os.path.join(folder, name)
    model.save_pretrained(path)
    config_path = os.path.join(path, "adapter_config.json")
    with open(config_path) as f:
        saved = json.load(f)
    saved["base_model_name_or_path"] = None  # would be this script's --out
    if isinstance(saved.get("target_modules"), list):
        saved["target_modules"].sort()  # PEFT writes a set; its order is not stable
    with open(config_path, "w") as f:
        json.dump(saved, f, indent=2, sort_keys=True)
        f.write("\n")
    for extra in os.listdir(path):
        if extra not in ("adapter_config.json", "adapter_model.safetensors"):
            os.remove(os.path.join(path, extra))


def make_family(family, spec, out):
    print(family)
    folder = os.path.join(out, family)
    write_model(family, spec, folder)
    vocab = spec["config"]["vocab_size"]
    golden = Golden()

    sequences = {}
    for i, n in enumerate(SEQUENCE_LENGTHS):
        sequences[i] = torch.from_numpy(rng(family, "seq", i).randint(0, vocab, n)).int()
        golden.add(f"seq.{i}.tokens", sequences[i])
    batch = []
    for i, n in enumerate(TRAIN_LENGTHS):
        tokens = torch.from_numpy(rng(family, "train", i).randint(0, vocab, n)).int()
        trained = torch.from_numpy(rng(family, "trained", i).rand(n) < 0.6)
        trained[0], trained[-1] = False, True
        batch.append((tokens, trained.to(torch.uint8)))
        golden.add(f"train.tokens.{i}", batch[-1][0])
        golden.add(f"train.trained.{i}", batch[-1][1])

    model = load(folder, "fp32", "eager")
    golden.add("rope.inv_freq", model.model.rotary_emb.inv_freq.clone())
    prompt = sequences[1]
    tokens, gap = greedy(load(folder, "fp64", "sdpa"), prompt, GREEDY_TOKENS)
    assert gap > 1e-3, gap
    golden.add("greedy.tokens", tokens)
    golden.add("greedy.gap", gap)

    add_case(golden, lambda dtype, attention: load(folder, dtype, attention), sequences, batch,
             "train", False)
    for adapter, options in spec["adapters"].items():
        write_adapter(folder, adapter, family, options)
        add_case(golden, lambda dtype, attention: with_adapter(folder, adapter, dtype, attention),
                 {i: sequences[i] for i in LORA_SEQUENCES}, batch, adapter, True)

    versions = {"torch": torch.__version__, "transformers": transformers.__version__,
                "peft": peft.__version__, "safetensors": safetensors.__version__,
                "numpy": np.__version__, "python": sys.version.split()[0]}
    st.save_file(golden.tensors, os.path.join(folder, "golden.safetensors"), versions)
    files = [os.path.join(d, f) for d, _, fs in os.walk(folder) for f in fs]
    for file in files:
        os.chmod(file, 0o644)  # safetensors writes 0600
    size = sum(os.path.getsize(f) for f in files)
    print(f"  {size / 1000:.0f} kB, {sum(p.numel() for p in model.parameters())} parameters")
    assert size < 1_000_000
    return size


# ---- check --------------------------------------------------------------------------------------


def tolerance(name, dtype):
    """Another machine rounds differently: fp32 in its last bits, fp64 likewise; bf16 errors are a
    maximum over rounding errors and move by tens of percent, so only their size is compared."""
    if ".err." in name or ".rms." in name:
        return None
    if "adamw" in name:
        return 2e-5
    return {torch.float64: 1e-10, torch.float32: 5e-6}.get(dtype, 0.0)


def compare(old, new):
    problems = []
    files = {os.path.relpath(os.path.join(d, f), r) for r in (old, new)
             for d, _, fs in os.walk(r) for f in fs if f != "README.md"}
    for file in sorted(files):
        a, b = os.path.join(old, file), os.path.join(new, file)
        if not (os.path.exists(a) and os.path.exists(b)):
            problems.append(f"{file}: only in one of the two")
        elif not file.endswith(".safetensors"):
            with open(a, "rb") as fa, open(b, "rb") as fb:
                if fa.read() != fb.read():
                    problems.append(f"{file}: differs")
        else:
            ta, tb = st.load_file(a), st.load_file(b)
            for name in sorted(set(ta) ^ set(tb)):
                problems.append(f"{file}: {name} only in one of the two")
            for name in sorted(set(ta) & set(tb)):
                x, y = ta[name], tb[name]
                limit = tolerance(name, x.dtype) if "golden" in file else 0.0
                if x.shape != y.shape or x.dtype != y.dtype:
                    problems.append(f"{file}: {name} has another shape or type")
                elif limit is None:
                    if not name.startswith("fp32.") and not 0.25 < float(x / y) < 4:
                        problems.append(f"{file}: {name} {float(x):.2e} and {float(y):.2e}")
                elif limit == 0.0:
                    if not torch.equal(x, y):
                        problems.append(f"{file}: {name} differs")
                elif float((x - y).abs().max()) > limit * float(x.abs().max()):
                    problems.append(f"{file}: {name} differs by {max_error(y, x):.1e}")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", required=True, help="folder of the fixtures")
    parser.add_argument("--check", action="store_true", help="make again elsewhere and compare")
    parser.add_argument("--family", action="append", help="only these families")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = args.family or list(FAMILIES)
    out = tempfile.mkdtemp(prefix="golden-") if args.check else args.out
    os.makedirs(out, exist_ok=True)
    total = 0
    for name in names:
        if not args.check:
            shutil.rmtree(os.path.join(out, name), ignore_errors=True)
        total += make_family(name, FAMILIES[name], out)
    print(f"{total / 1e6:.2f} MB in all")
    assert total < 8_000_000
    if args.check:
        problems = []
        for name in names:
            problems += [f"{name}/{p}" for p in
                         compare(os.path.join(args.out, name), os.path.join(out, name))]
        shutil.rmtree(out)
        print("\n".join(problems) if problems else "the fixtures are what this script makes")
        sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
