sidespool-postgres --check --config $(printf %0256d 0).yaml
