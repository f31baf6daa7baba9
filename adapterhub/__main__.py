"""``python -m adapterhub``, and with it ``accelerate launch -m adapterhub`` and ``torchrun``."""

from adapterhub.cli.main import main

if __name__ == "__main__":
    main()
