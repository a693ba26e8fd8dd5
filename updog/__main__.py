"""``python -m updog``: the same as the program."""

from updog.cli import main

if __name__ == "__main__":
    main()
