"""Branchax beside its peers: the same work in the same run, each library in an environment of its own."""
