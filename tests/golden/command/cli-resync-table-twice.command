sidespool resync --route r public.a public.a
