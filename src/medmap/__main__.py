"""``python -m medmap`` is the command ``medmap``."""

from medmap.cli import main

if __name__ == "__main__":
    main()
