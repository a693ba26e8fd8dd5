"""The developer's programs: demo, benchmark, generated documents."""
