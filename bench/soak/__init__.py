"""An hour of everything at once, to see that nothing grows: `python -m bench.soak`."""
