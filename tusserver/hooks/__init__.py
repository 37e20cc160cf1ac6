"""Hooks: an application is asked before something happens to an upload, and told after it."""
