"""System calls on files, as plain functions to be run in threads; each says what a crash leaves behind."""
