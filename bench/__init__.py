"""The benchmark: tusserver and other tus servers side by side, on the same work. See README.md beside this file."""
