"""From preference data of any published form to prompt groups; bad rows are quarantined with a reason, never lost."""
