"""The version of this program, here so that reading it needs no look into installed packages."""

VERSION = "0.1.0"
