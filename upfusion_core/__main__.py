"""`python -m upfusion_core`: the command `upfusion`, where that is not on the search path."""

from .cli import main

if __name__ == "__main__":
    main()
