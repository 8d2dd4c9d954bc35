"""`python -m mrm`, `torchrun -m mrm`: the command."""

from mrm.cli import main

if __name__ == "__main__":
    main()
