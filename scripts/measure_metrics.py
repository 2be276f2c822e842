"""Every metric beside a published implementation on the same maps, in the environment of `.ci/oracles`.

    python scripts/measure_metrics.py           # the table; exits with 1 where a difference has no reason
    python scripts/measure_metrics.py --speed   # one metric of 10,000 maps, beside pysaliency's loop
    python scripts/measure_metrics.py --material DIR           # of maps of real photos, both ways
    python scripts/measure_metrics.py --material DIR --share   # what metrics cost beside a run; needs none

Needs pysaliency, PySODMetrics, Quantus and scikit-learn beside attnvis and torchcam.  pysaliency and Quantus
call np.trapz, which numpy 2.4 no longer has: they get np.trapezoid under that name.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from metric_oracles.common import (
    CLOSE,
    KINDS,
    SIZE,
    Row,
    compare,
    random_maps,
    random_truth,
)
from metric_oracles.costs import print_share, print_speed
from metric_oracles.faithfulness import faithfulness_rows
from metric_oracles.fixations import fixation_rows
from metric_oracles.photos import print_photos
from metric_oracles.regions import pop_out_rows, region_rows, segmentation_rows

from attnvis.metrics.registry import METRICS


def rows() -> list[Row]:
    """All of them.  Raises ImportError where a library is missing."""
    np.trapz = np.trapezoid  # type: ignore[attr-defined]  # noqa: NPY201
    truth = random_truth()
    return [
        *fixation_rows(truth),
        *region_rows(truth),
        *segmentation_rows(truth),
        *pop_out_rows(truth),
        *faithfulness_rows(),
    ]


def every_metric() -> list[str]:
    return list(METRICS)


def print_table() -> bool:
    maps = random_maps()
    print("| metric | library | ours | theirs | largest difference | left out |")
    print("|---|---|---|---|---|---|")
    all_close = True
    for row in rows():
        result = compare(row, maps)
        is_close = result.difference <= CLOSE
        all_close &= is_close
        note = f"{', '.join(row.left_out)}: {row.reason}" if row.left_out else ""
        print(
            f"| {row.label} | {row.library} | {result.ours[2]:.9f} | {result.theirs[2]:.9f} "
            f"| {result.difference:.1e}{'' if is_close else ' !'} | {note} |"
        )
    kinds = ", ".join(KINDS)
    print(f"\nof a density; the differences over {len(KINDS)} maps of {SIZE[0]} x {SIZE[1]}: {kinds}")
    return all_close


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("--speed", action="store_true", help="CPU time of many maps instead of the table")
    parser.add_argument("--material", type=Path, help="a folder with osie/ and raccoon/: real photos instead")
    parser.add_argument("--photos", type=int, default=40, help="of each data set")
    parser.add_argument("--share", action="store_true", help="what metrics cost beside a run, on osie/")
    args = parser.parse_args()
    try:
        if args.material and args.share:
            print_share(args.material / "osie", args.photos)
        elif args.material:
            print_photos(args.material / "osie", args.photos)
            print()
            print_photos(args.material / "raccoon", args.photos)
        elif args.speed:
            print_speed()
        elif not print_table():
            sys.exit("where it says ! a metric differs from its library by more than 1e-6")
    except ImportError as error:
        sys.exit(f"{error.name} is not installed; .ci/oracles makes an environment that has it")


if __name__ == "__main__":
    main()
