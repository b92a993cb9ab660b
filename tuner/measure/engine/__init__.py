"""An engine process under watch: started, asked for readiness, ended with everything it started."""
