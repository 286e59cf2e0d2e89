"""``mimo-native bench acceptance``: how much of what the MTP heads draft is accepted, by domain."""

import argparse
import json
import tempfile


def run(args: argparse.Namespace) -> int:
    from ..loading import load
    from ..pretrain.acceptance import draw, measure, write_heldout
    from ..training.data import TokenFile

    model, tokenizer = load(args.model, mtp=args.mtp)
    with tempfile.TemporaryDirectory() as scratch:
        if args.data is not None:
            held = sorted(args.data.glob("*/heldout"))
            files = {path.parent.name: TokenFile(path) for path in held}
        else:
            files = write_heldout(tokenizer, scratch, vocab_size=model.config.vocab_size)
        points = measure(model, files, rows=args.rows, prompts=args.prompts)
    if args.plot is not None:
        draw({args.model: points}, args.plot)
    if args.json:
        print(json.dumps([point.to_dict() for point in points]))
        return 0
    print(
        f"{'domain':<10}{'nats/token':>11}{'nats/byte':>11}{'sampled':>9}{'text':>7}{'report':>8}"
    )
    for p in points:
        report = "" if p.report is None else f"{p.report:.2f}"
        print(
            f"{p.domain:<10}{p.nats_per_token:>11.3f}{p.nats_per_byte:>11.3f}"
            f"{p.sample_length:>9.2f}{p.text_length:>7.2f}{report:>8}"
        )
    return 0
