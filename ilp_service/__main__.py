"""``python -m ilp_service`` is ``ilp``."""

from ilp_service.cli import main

if __name__ == "__main__":
    main()
