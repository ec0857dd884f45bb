"""The problem report: what is collected, what is taken out, how it is sent. The one part that talks to the API."""
