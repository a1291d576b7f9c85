sidespool resync public.users
