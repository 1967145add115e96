"""What `kedro run` does around its nodes: session, context, selection, freshness, console, summary, tracking."""
