mkdir d; sidespool-postgres --check --config d
