"""Read pictures of digits, one digit each: what the trained network takes them for.

    .venv/bin/python S4/read.py photo.jpg scan.png

A line for each picture says the digit and how sure the network is, or what is unsure.
Of a file with several pages or frames, the first counts; HEIC and PDF are not read. The
exit status is 0 if all could be read as pictures, else 1.
"""

import argparse
import sys

try:
    import notebook_file as nf
except ImportError:
    from S4 import notebook_file as nf


def parse():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="a file")
    default = nf.NOTEBOOK.with_name("net.pt")
    parser.add_argument("--weights", default=default, help="default: S4/net.pt")
    return parser.parse_args()


def main():
    nf.plain_console()
    options = parse()
    nb, failed = nf.load_definitions(), False
    try:
        net = nb.load_net(options.weights)
    except Exception as error:  # whatever else such a file may hold
        reason = str(error).partition("\n")[0]
        sys.exit(f"{options.weights} does not hold this network's weights: {reason}")
    for path in options.pictures:
        try:
            probabilities, doubts, _ = nb.read_digit(path, net)
            print(f"{path}: {nb.in_words(probabilities, doubts)}", flush=True)
        except (ValueError, ImportError) as error:
            print(error, file=sys.stderr, flush=True)
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
