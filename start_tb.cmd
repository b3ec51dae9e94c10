@echo off
rem Show the training curves in a browser: http://localhost:6006. Arguments go to TensorBoard, e.g. --port 6007.
setlocal
cd /d "%~dp0"
set "PYTHON=.venv\Scripts\python.exe"
if not exist "%PYTHON%" set "PYTHON=python"
"%PYTHON%" -c "import tensorboard" >nul 2>&1
if errorlevel 1 (
    echo TensorBoard is not installed. Install it with: %PYTHON% -m pip install tensorboard>&2
    exit /b 2
)
"%PYTHON%" -m tensorboard.main --logdir logs %*
