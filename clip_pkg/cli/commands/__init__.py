"""One module per command, found by its file name: `class_texts.py` is the command `class-texts`.

    SUMMARY                  its line in `train_clip.py --help`
    DESCRIPTION              what its own --help begins with
    add_arguments(parser)
    run(parsed) -> int       the exit code

At its top a command imports only what its arguments need and everything else in `run`, so that
--help and a rejected config take a fraction of a second.
"""
