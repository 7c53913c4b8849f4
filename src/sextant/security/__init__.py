"""Who is who, and what is sealed: identities of workloads, envelope keys."""
