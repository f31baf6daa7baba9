"""Pieces shared by the HTTP servers: errors with a status, and bounded request bodies."""
