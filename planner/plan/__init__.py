"""Plan documents: records shared by all kinds, one module per kind, reading and writing."""
