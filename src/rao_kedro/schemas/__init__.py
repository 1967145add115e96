"""Data contracts: pandera schemas of tables, pydantic models of parameters."""
