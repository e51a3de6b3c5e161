#!/usr/bin/env python3
"""hone against transformers + PEFT on this machine, alternately, on the same model and data.

    bench/compare.py --hone build/hone                 # everything: about 40 minutes on 2 cores
    bench/compare.py --hone build/hone --rows lora,generate16 --rounds 1 --steps 4
    bench/compare.py --no_hone --rows lora             # the rival alone

Makes a virtual environment with the versions of bench/requirements.txt where there is none,
a model of random weights at the Qwen2.5-0.5B shape, and GSM8K as chats. For every row the
contenders run in turn, `--rounds` times, each in a process of its own; the table shows medians over
the rounds. Progress goes to stderr, the table to stdout, all figures to --json.
"""
import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import rival_inputs

RIVAL = os.path.join(HERE, "rival_transformers.py")
BATCH, LENGTH, NEW_TOKENS, STREAMS = 8, 256, 64, 16

# row: title, hone's flags, the
# rival's flags by contender. Rates are in tokens/s and count no padding.
TRAIN = {
    "lora": ("LoRA bf16, checkpointing", ["-g"],
             {"as it comes": ["--checkpointing"],
              "fastest": ["--checkpointing", "--adapters_bf16"]}),
    "lora_keep": ("LoRA bf16, no checkpointing", [],
                  {"as it comes": [], "fastest": ["--adapters_bf16"]}),
    "full": ("full fine-tuning bf16, checkpointing", ["-g", "--lora_rank", "0"],
             {"pure bf16": ["--checkpointing", "--kind", "full"]}),
    "lora_fp32": ("LoRA fp32, checkpointing", ["-g", "--dtype", "fp32"],
                  {"fp32": ["--checkpointing", "--dtype", "fp32"]}),
}
# torch's bf16 products are oneDNN's from AVX-512 on; without it a step had not ended after a quarter
# of an hour, and fp32 is the rival's fastest setting.
WITHOUT_AVX512 = {
    "lora": {"fp32": ["--checkpointing", "--dtype", "fp32"]},
    "lora_keep": {"fp32": ["--dtype", "fp32"]},
    "full": {"fp32": ["--checkpointing", "--kind", "full", "--dtype", "fp32"]},
}
GENERATE = {"generate16": ("generate, 16 prompts x 64", STREAMS),
            "generate1": ("generate, one stream x 64", 1)}
PREPARE = {"prepare": "tokenise, mask and pack GSM8K"}
ROWS = [*TRAIN, *GENERATE, *PREPARE]


def log(text):
    print(text, file=sys.stderr, flush=True)


# ---- running ------------------------------------------------------------------------------------


def run(command, log_path, stdout=None, env=None):
    """Runs to the end; wall seconds and the peak RSS of the process (mapped pages included)."""
    with open(log_path, "w") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout or subprocess.DEVNULL, stderr=errors,
                                   env=env)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        with open(log_path) as f:
            tail = f.read()[-2000:]
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{tail}")
    return seconds, usage.ru_maxrss * 1024


class Bench:
    def __init__(self, args, has_avx512):
        self.args = args
        self.has_avx512 = has_avx512
        self.work = args.work
        self.python = os.path.join(args.venv, "bin", "python")
        self.model = os.path.join(self.work, "model")
        self.chats = os.path.join(self.work, "chats.jsonl")
        self.prompts = os.path.join(self.work, "prompts.jsonl")
        os.makedirs(self.work, exist_ok=True)

    def path(self, name):
        return os.path.join(self.work, name)

    def set_up(self):
        if not os.path.exists(self.python):
            log(f"making {self.args.venv}")
            subprocess.check_call([sys.executable, "-m", "venv", self.args.venv])
            subprocess.check_call([self.python, "-m", "pip", "install", "-q", "-r",
                                   os.path.join(HERE, "requirements.txt")])
        if not os.path.exists(os.path.join(self.model, "tokenizer_config.json")):
            log(f"making {self.model}")
            self.rival("model", ["--out", self.model, "--tokenizer", self.args.tokenizer])
        rival_inputs.make_data(self.args.gsm8k, self.chats, self.prompts, STREAMS)
        for source, target, lines in ((self.chats, "train.jsonl", self.args.steps * BATCH),
                                      (self.chats, "one_chat.jsonl", 1),
                                      (self.prompts, "prompts1.jsonl", 1)):
            with open(source, encoding="utf-8") as f, \
                    open(self.path(target), "w", encoding="utf-8") as out:
                out.writelines(line for line, _ in zip(f, range(lines)))

    # Each of the following returns {"rate" or "seconds", "peak_rss", ...}.

    def rival(self, job, flags):
        out_path = self.path("rival.json")
        env = dict(os.environ, PYTHONWARNINGS="ignore")
        with open(out_path, "w") as out:
            command = [self.python, RIVAL, job, *flags, *self.threads()]
            run(command, self.path("rival.log"), out, env)
        with open(out_path) as f:
            return json.loads(f.read().strip().splitlines()[-1])

    def threads(self):
        return ["--threads", str(self.args.threads)] if self.args.threads else []

    def rival_train(self, flags):
        r = self.rival("train", ["--model", self.model, "--data", self.path("train.jsonl"),
                                 "--steps", str(self.args.steps), "--batch_size", str(BATCH),
                                 "--max_length", str(LENGTH), *flags])
        return dict(rate=r["tokens_per_second"], peak_rss=r["peak_rss"], rates=r["rates"],
                    losses=r["losses"])

    def hone_train(self, flags):
        out = self.path("run")
        shutil.rmtree(out, ignore_errors=True)
        command = [self.args.hone, "sft", "--pretrained", self.model, "--dataset",
                   self.path("train.jsonl"), "--max_length", str(LENGTH), "--batch_size",
                   str(BATCH), "--lr", "2e-5", "--num_epochs", "1", "--shuffle", "false",
                   "--save_dir", out]
        if "--lora_rank" not in flags:
            command += ["--lora_rank", "8", "--lora_alpha", "16"]
        seconds, peak = run(command + flags, self.path("hone.log"))
        lines = rival_inputs.read_jsonl(os.path.join(out, "metrics.jsonl"))
        lines = [m for m in lines if "tokens_per_second" in m and "tokens" in m]
        if len(lines) != self.args.steps:
            raise RuntimeError(f"{len(lines)} steps in metrics.jsonl, not {self.args.steps}")
        rates = [m["tokens_per_second"] for m in lines]
        inside = sum(m["tokens"] / m["tokens_per_second"] for m in lines)
        shutil.rmtree(out, ignore_errors=True)
        return dict(rate=statistics.median(rates[1:] or rates), rates=rates,
                    peak_rss=max(peak, *(m.get("peak_memory", 0) for m in lines)),
                    losses=[m["loss"] for m in lines], outside_steps=seconds - inside)

    def rival_generate(self, streams, dtype):
        r = self.rival("generate", ["--model", self.model, "--prompts", self.prompts, "--streams",
                                    str(streams), "--max_new_tokens", str(NEW_TOKENS),
                                    "--dtype", dtype])
        return dict(rate=r["tokens_per_second"], peak_rss=r["peak_rss"])

    def hone_generate(self, streams):
        """The rate hone itself reports; if it reports none, of the whole process, loading too."""
        prompts = self.prompts if streams > 1 else self.path("prompts1.jsonl")
        answers = self.path("answers.jsonl")
        seconds, peak = run([self.args.hone, "generate", "--pretrained", self.model, "--input",
                             prompts, "--output", answers, "--temperature", "0", "--ignore_eos",
                             "--max_new_tokens", str(NEW_TOKENS)], self.path("hone.log"))
        made = [len(a["tokens"]) for a in rival_inputs.read_jsonl(answers)]
        if made != [NEW_TOKENS] * streams:
            raise RuntimeError(f"hone generate made {made} tokens")
        with open(self.path("hone.log")) as f:
            reported = re.findall(r"([0-9.]+) *tok(?:ens)?/s", f.read())
        whole = sum(made) / seconds
        return dict(rate=float(reported[-1]) if reported else whole, whole_process=whole,
                    peak_rss=peak)

    def rival_prepare(self, flags):
        r = self.rival("prepare", ["--model", self.model, "--data", self.chats, "--max_length",
                                   str(LENGTH), *flags])
        return dict(seconds=r["seconds"] + r["read_seconds"], peak_rss=r["peak_rss"])

    def hone_prepare(self):
        """`hone show --json` of the file less that of its first line (start-up and the tokenizer,
        which the rival's figure leaves out too). It also writes every token as text."""
        both = []
        for name in (self.chats, self.path("one_chat.jsonl")):
            both.append(run([self.args.hone, "show", "--pretrained", self.model, "--dataset", name,
                             "--json"], self.path("hone.log")))
        return dict(seconds=both[0][0] - both[1][0], whole_process=both[0][0], peak_rss=both[0][1])

    def contenders(self, row):
        """(title, {name: function}); hone first."""
        if row in TRAIN:
            title, flags, rivals = TRAIN[row]
            if not self.has_avx512:
                rivals = WITHOUT_AVX512.get(row, rivals)
            jobs = {"hone": lambda: self.hone_train(flags)}
            jobs.update({n: (lambda f=f: self.rival_train(f)) for n, f in rivals.items()})
        elif row in GENERATE:
            title, streams = GENERATE[row]
            jobs = {"hone": lambda: self.hone_generate(streams)}
            dtypes = {"transformers": "bf16"}
            if not self.has_avx512:
                dtypes = {f"transformers {d}": d
                          for d in (["fp32", "bf16"] if streams == 1 else ["fp32"])}
            jobs.update({n: (lambda d=d: self.rival_generate(streams, d))
                         for n, d in dtypes.items()})
        else:
            title = PREPARE[row]
            jobs = {"hone": self.hone_prepare, "TRL": lambda: self.rival_prepare([]),
                    "TRL, all cores": lambda: self.rival_prepare(
                        ["--processes", str(self.args.threads or os.cpu_count())])}
        if self.args.no_hone:
            del jobs["hone"]
        if self.args.hone_only:
            jobs = {"hone": jobs["hone"]}
        return title, jobs


# ---- reporting ----------------------------------------------------------------------------------


def machine():
    model, flags = "", set()
    with open("/proc/cpuinfo") as f:
        for line in f:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) * 1024
    has = [f for f in ("amx_bf16", "amx_int8", "avx512_bf16", "avx512f", "avx2") if f in flags]
    return dict(cpu=model, cores=len(os.sched_getaffinity(0)), flags=has,
                memory_gb=round(memory / 1e9, 1), load=round(os.getloadavg()[0], 2))


def summary(results):
    """Medians over the rounds of one contender."""
    key = "rate" if "rate" in results[0] else "seconds"
    return dict(key=key, value=statistics.median(r[key] for r in results),
                peak=statistics.median(r["peak_rss"] for r in results))


def table(rows):
    lines = ["| job | contender | speed | peak memory | hone is faster by | hone's memory |",
             "|---|---|---|---|---|---|"]
    for title, contenders in rows:
        best = {n: summary(r) for n, r in contenders.items()}
        own = best.get("hone")
        for name, b in best.items():
            speed = (f"{b['value']:.1f} tokens/s" if b["key"] == "rate"
                     else f"{b['value']:.2f} s")
            ratio = memory = ""
            if own and name != "hone":
                faster = (own["value"] / b["value"] if b["key"] == "rate"
                          else b["value"] / own["value"])
                ratio, memory = f"{faster:.2f}x", f"{own['peak'] / b['peak']:.2f}x"
            lines.append(f"| {title} | {name} | {speed} | {b['peak'] / 1e9:.2f} GB | {ratio} | "
                         f"{memory} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--hone", default="build/hone", help="the binary")
    parser.add_argument("--venv", default=".venv-bench")
    parser.add_argument("--work", default="build/bench", help="model, data and logs")
    parser.add_argument("--tokenizer", default="../shared/assets/tok-qwen")
    parser.add_argument("--gsm8k", default="../shared/assets/math/gsm8k_train.jsonl")
    parser.add_argument("--rows", default=",".join(ROWS), help="of: %(default)s")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="training steps a run; one is warm-up")
    parser.add_argument("--threads", type=int, help="of the rival; default: all cores")
    parser.add_argument("--no_hone", action="store_true", help="the rival alone")
    parser.add_argument("--hone_only", action="store_true")
    parser.add_argument("--json", help="file for all figures")
    args = parser.parse_args()
    rows = args.rows.split(",")
    if unknown := sorted(set(rows) - set(ROWS)):
        parser.error(f"no such row: {', '.join(unknown)}; rows are {', '.join(ROWS)}")
    if args.no_hone and args.hone_only:
        parser.error("--no_hone and --hone_only leave nothing to run")
    if not args.no_hone and not os.access(args.hone, os.X_OK):
        parser.error(f"{args.hone} is no program; build hone first or give --hone")
    if args.steps < 2:
        parser.error("--steps must be at least 2: the first is the warm-up")
    if args.hone and os.path.exists(args.hone):
        args.hone = os.path.abspath(args.hone)

    host = machine()
    log(f"{host}")
    if host["load"] > 0.5:
        log("the machine is busy: these figures will not be worth keeping")
    bench = Bench(args, "avx512f" in host["flags"])
    bench.set_up()
    done = []
    for row in rows:
        title, jobs = bench.contenders(row)
        results = {name: [] for name in jobs}
        for i in range(args.rounds):
            for name, job in jobs.items():
                result = job()
                results[name].append(result)
                log(f"{title}, {name}, round {i + 1}: {json.dumps(result)}")
        done.append((title, results))
    if args.json:
        with open(args.json, "w") as f:
            json.dump(dict(machine=host, rows=[dict(job=t, results=r) for t, r in done]), f,
                      indent=1)
    flags = ", ".join(host["flags"])
    print(f"{host['cpu']}, {host['cores']} cores ({flags}), {host['memory_gb']} GB; load "
          f"{host['load']} at the start; Qwen2.5-0.5B shape, {BATCH} samples a step cut at "
          f"{LENGTH}, {args.steps} steps, medians of {args.rounds} rounds\n")
    print(table(done))


if __name__ == "__main__":
    main()
