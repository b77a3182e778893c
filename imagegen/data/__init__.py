"""Data as random-access sequences of records: built in, degraded, and loaded in batches of a seed's endless order."""
