pub mod mp4mux;
