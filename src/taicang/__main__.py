"""``python -m taicang``."""

from taicang.app.main import main

main()
