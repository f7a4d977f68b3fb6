"""`python -m lit_hidden` is `lit-hidden`."""

from lit_hidden.cli import main

if __name__ == "__main__":
    main()
