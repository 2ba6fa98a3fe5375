"""`cloudq demo`: `tasks` is an ordinary cloudq program, `show` puts it to work and checks what came of it."""
